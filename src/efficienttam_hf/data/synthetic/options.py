"""All parameters of synthetic scenes, in one place, so that a training configuration can set any of them.

Lengths are fractions of the frame's side (the square root of its area), times are in frames, angles are in degrees. A
pair is a range to draw from. Probabilities of alternatives are weights and need not sum to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


__all__ = ["SyntheticOptions"]


Range = tuple[float, float]


@dataclass(frozen=True)
class SyntheticOptions:
    """The parameters of scenes. The module's docstring states the units.

    "how often" means a probability from 0 to 1.

    Attributes:
        min_visible: the fraction of the image that every tracked object covers at least in the first frame.
        min_shown_part: the fraction of an object, as far as it is within the first frame, that must not be hidden
            there.
        object_side: the range of an object's longest side, which is drawn log-normally.
        object_side_median, object_side_spread: the median of that side, and the standard deviation of its logarithm.
        max_untracked: the largest number of moving objects that are not tracked (distractors and occluders together).
        aspect_ratios: ratios of width to height of the scene, of which one is drawn. The scene is then resized to the
            image, as videos are resized to the square input of a tracker. If empty, the ratio is the image's.

        figure: how often an object has several parts with joints: people, animals, vehicles, clusters of things.
        cutout: how often an object of one part has the outline of a cutout, if there are any, instead of a drawn one.
        own_colours, photo_surface, procedural_surface: weights of an object's surface: the cutout's own colours, a crop
            of a photograph, a procedural texture. Surfaces that are not available are left out.
        camouflage: how often an object is covered with the background's texture.
        regions: how often an outline is covered with two or three surfaces, as by clothes.
        turning: how often an object with another surface than its own looks like a solid that turns: the surface moves
            within the outline, and the outline changes.
        shading: how often an object is lit from one side and darkens towards its rim.
        soft_edge: how often an outline is softened.

        still, wander, dart: weights of an object's movement: hardly any, on a smooth path, or sudden after a rest.
        speed: the distance per frame, drawn log-uniformly.
        fast, fast_speed: how often an object is fast, and its speed then.
        leave: how often an object is fast and its path is long enough to leave the frame and return.
        walk: how often an object bobs and rocks as if walking.
        turn: how often an object keeps rotating in the image plane instead of rocking a little.
        turn_speed: the speed of this rotation in degrees per frame.
        tilt: the largest angle of rotation in depth.
        tilted: how often an object rotates in depth.
        scale_change: the largest factor by which an object grows or shrinks in a clip.
        deform: how often an object deforms; a figure of parts always moves its joints.
        deformation: how far its points move, relative to the object's side.

        distractor: how often one of the tracked objects has a double, and then how often there is another one.
        double_tracked: how often such a double is tracked too, if there are fewer objects than allowed.
        occluder: how often an untracked object is in front.
        crossing: how often an occluder or another object passes over a tracked object.
        orbit: how often two tracked objects circle each other, each in front of the other in turns.
        clutter: how often things lie on the background.

        photo_background: how often the background is a photograph, if there are any.
        background_side: the side of the background relative to the view's.
        midground: how often a second surface with its own parallax covers part of the background.
        camera_still, camera_shake, camera_pan, camera_follow: weights of the camera's movement.
        camera_speed: the distance that the camera moves per frame, drawn log-uniformly.
        camera_zoom: the largest factor of zoom in a clip.
        camera_roll: the largest angle of the camera's roll.
        parallax: the background's movement with the camera relative to the objects'.
        defocus: how often the background is out of focus.
        sway: how often the background deforms, as water and leaves do.

        shutter: the fraction of a frame's time during which motion blurs.
        shadow: how often objects cast a shadow.
        light: how often brightness, contrast and colour drift over the clip.
        lamp: how often an uneven light moves over the scene.
        noise: how often there is sensor noise.
        noise_level: the standard deviation of the noise, on the scale of 255.
        compression: how often frames are compressed as JPEG.
        compression_quality: the range of the JPEG quality.
        low_resolution: how often frames are enlarged from half their size.
    """

    min_visible: float = 0.004
    min_shown_part: float = 0.35
    object_side: Range = (0.1, 0.95)
    object_side_median: float = 0.45
    object_side_spread: float = 0.45
    max_untracked: int = 3
    aspect_ratios: tuple[float, ...] = (1.0, 4 / 3, 16 / 9, 16 / 9, 9 / 16)

    figure: float = 0.25
    cutout: float = 0.75
    own_colours: float = 0.33
    photo_surface: float = 0.5
    procedural_surface: float = 0.17
    camouflage: float = 0.07
    regions: float = 0.25
    turning: float = 0.25
    shading: float = 0.8
    soft_edge: float = 0.3

    still: float = 0.15
    wander: float = 0.7
    dart: float = 0.15
    speed: Range = (0.002, 0.05)
    fast: float = 0.1
    fast_speed: Range = (0.05, 0.15)
    leave: float = 0.18
    walk: float = 0.25
    turn: float = 0.2
    turn_speed: Range = (1.0, 15.0)
    tilt: float = 55.0
    tilted: float = 0.5
    scale_change: float = 1.6
    deform: float = 0.65
    deformation: Range = (0.01, 0.08)

    distractor: float = 0.3
    double_tracked: float = 0.4
    occluder: float = 0.35
    crossing: float = 0.45
    orbit: float = 0.2
    clutter: float = 0.35

    photo_background: float = 0.85
    background_side: float = 1.6
    midground: float = 0.25
    camera_still: float = 0.2
    camera_shake: float = 0.25
    camera_pan: float = 0.3
    camera_follow: float = 0.25
    camera_speed: Range = (0.003, 0.06)
    camera_zoom: float = 1.3
    camera_roll: float = 8.0
    parallax: Range = (0.4, 1.0)
    defocus: float = 0.25
    sway: float = 0.15

    shutter: Range = (0.0, 0.7)
    shadow: float = 0.25
    light: float = 0.4
    lamp: float = 0.2
    noise: float = 0.5
    noise_level: Range = (1.0, 8.0)
    compression: float = 0.3
    compression_quality: Range = (25, 90)
    low_resolution: float = 0.15

    @classmethod
    def of(cls, given: SyntheticOptions | Mapping | None, **more: Any) -> SyntheticOptions:
        """Make options from a configuration.

        Args:
            given: options, a mapping with some of their fields, or `None` for the defaults.
            more: fields that replace those of `given`.

        Raises:
            ValueError: if a field does not exist.
        """
        values: dict[str, Any] = {}
        if given is not None:
            values |= vars(given) if isinstance(given, SyntheticOptions) else given
        values |= more
        known = {field.name: field.default for field in fields(cls)}
        if unknown := sorted(values.keys() - known.keys()):
            raise ValueError(
                f"There is no synthetic option {', '.join(map(repr, unknown))}. There are: {', '.join(known)}."
            )
        # YAML and JSON give lists; these options are tuples.
        taken: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**taken)
