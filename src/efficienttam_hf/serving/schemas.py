"""The JSON that the service reads and writes. The OpenAPI page is made from these classes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..app.defaults import MAX_OBJECT_ID
from ..mask_io import decode_rle
from ..prompts import Box, ObjectPrompts, Prompts
from .errors import Refusal


Number = Annotated[float, Field(allow_inf_nan=False)]
ObjectId = Annotated[int, Field(ge=1, le=MAX_OBJECT_ID, description="Id of the object, 1 to 255.")]


class Given(BaseModel):
    """What a client sends: unknown fields are refused, because they are mostly misspelt ones."""

    model_config = ConfigDict(extra="forbid")


class RunLengths(BaseModel):
    """A mask in COCO's run-length encoding, which pycocotools reads."""

    size: Annotated[tuple[int, int], Field(description="Height and width in pixels.")]
    counts: Annotated[str, Field(description="The compressed run lengths.")]


class PointsAndBox(Given):
    """Points and a box for one object."""

    points: Annotated[
        list[tuple[Number, Number]], Field(description="Points (x, y) in pixels of the original frame.")
    ] = []
    labels: Annotated[
        list[Literal[0, 1]] | None,
        Field(description="A label for each point: 1 on the object, 0 beside it. By default, all are on the object."),
    ] = None
    box: Annotated[
        tuple[Number, Number, Number, Number] | None,
        Field(description="A box (x0, y0, x1, y1) around the object, in pixels of the original frame."),
    ] = None

    def to_prompts(self) -> ObjectPrompts:
        """The prompts, not yet checked against a frame."""
        labels: list[int] = [1] * len(self.points) if self.labels is None else [*self.labels]
        return ObjectPrompts(list(self.points), labels, None if self.box is None else Box(*self.box))


class Prompt(PointsAndBox):
    """What is given for one object on one frame: points, a box or both, or a mask."""

    frame: Annotated[int, Field(ge=0, description="Number of the frame, from 0.")]
    mask: Annotated[
        RunLengths | None,
        Field(
            description="A mask of the object, of the original frame's size. Points and a box that come with it "
            "correct it."
        ),
    ] = None

    def to_prompts(self) -> ObjectPrompts:
        """The prompts, not yet checked against a frame.

        Raises:
            Refusal: if the mask is damaged.
        """
        prompts = super().to_prompts()
        if self.mask is not None:
            try:
                prompts.mask = decode_rle({"size": list(self.mask.size), "counts": self.mask.counts})
            except ValueError as error:
                raise Refusal(str(error)) from error
        return prompts


class PromptedObject(Given):
    """The prompts of one object."""

    id: ObjectId
    prompts: Annotated[list[Prompt], Field(min_length=1)]


class PromptsRequest(Given):
    """Prompts to add to a session."""

    objects: Annotated[list[PromptedObject], Field(min_length=1)]
    preview: Annotated[
        bool,
        Field(description="Whether the prompts are run at once, so that the answer has the masks on their frames."),
    ] = False

    def to_prompts(self) -> Prompts:
        """Prompts by frame and object.

        Raises:
            Refusal: if an object has two prompts on one frame, or a mask is damaged.
        """
        prompts: Prompts = {}
        for one in self.objects:
            for prompt in one.prompts:
                on_frame = prompts.setdefault(prompt.frame, {})
                if one.id in on_frame:
                    raise Refusal(
                        f"There are two prompts for object {one.id} on frame {prompt.frame}: join their points."
                    )
                on_frame[one.id] = prompt.to_prompts()
        return prompts


class PropagateRequest(Given):
    """How to track."""

    direction: Annotated[
        Literal["forward", "backward", "both"] | None,
        Field(
            description="Where to track from the prompted frames. By default, forward if every object is prompted on "
            "the first frame, and both ways otherwise."
        ),
    ] = None
    masks: Annotated[bool, Field(description="Whether the events carry the masks.")] = True


class ImagePrompt(PointsAndBox):
    """The prompts of one object in an image."""

    id: ObjectId


# ----------------------------------------------------------------------------------------------------- what is answered


class Problem(BaseModel):
    """Why a request was not served."""

    detail: Annotated[str, Field(description="One sentence for the user.")]


class Health(BaseModel):
    """The service is running."""

    status: Literal["ok"] = "ok"


class Size(BaseModel):
    """A size in pixels."""

    width: int
    height: int


class Limits(BaseModel):
    """The limits of this service."""

    max_upload_mb: int
    max_frames: int
    max_pixels: int
    max_side: int
    max_sessions: int
    max_objects: int
    max_points: int
    max_prompts: int
    requests_per_minute: int
    session_minutes: int


class ServiceInfo(BaseModel):
    """The model and the limits of this service."""

    version: Annotated[str, Field(description="Version of efficienttam-hf.")]
    model: str
    device: str
    sessions: Annotated[int, Field(description="Number of sessions that exist.")]
    limits: Limits


class PromptSummary(BaseModel):
    """A prompt of a session. Of a mask, only its presence is given."""

    frame: int
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    box: tuple[float, float, float, float] | None = None
    mask: bool = False


class ObjectSummary(BaseModel):
    """An object of a session and its prompts, in pixels of the original frame."""

    id: int
    prompts: list[PromptSummary]


class SessionInfo(BaseModel):
    """The state of a session."""

    id: Annotated[str, Field(description="Secret name of the session.")]
    state: Annotated[
        Literal["ready", "waiting", "tracking"],
        Field(description="`waiting` means that tracking was asked for and waits for its turn."),
    ]
    name: Annotated[str, Field(description="Name of the video, from the uploaded file.")]
    frames: Annotated[int, Field(description="Number of frames that are used.")]
    frames_in_video: int
    fps: float
    prompt_size: Annotated[Size, Field(description="Size of the original frames, in whose pixels prompts are given.")]
    size: Annotated[Size, Field(description="Size of the results: masks and overlay.")]
    note: Annotated[str, Field(description="Why there are fewer frames than the file states, or empty.")]
    objects: list[ObjectSummary]
    tracked_frames: Annotated[int, Field(description="Number of frames that have masks.")]
    complete: Annotated[bool, Field(description="Whether tracking with these prompts reached its end.")]
    expires_in: Annotated[int, Field(description="Seconds until the session is deleted if no request comes.")]


class ObjectResult(BaseModel):
    """An object on a frame or in an image."""

    id: int
    score: Annotated[
        float, Field(description="Probability that the object is in the frame; in an image, the predicted IoU.")
    ]
    area: Annotated[int, Field(description="Pixels of the mask; 0 if the object is not seen.")]
    bbox: Annotated[tuple[int, int, int, int], Field(description="x, y, width and height of the mask's box.")]
    segmentation: RunLengths | None = None


class FrameResult(BaseModel):
    """The objects on a frame."""

    frame: int
    objects: list[ObjectResult]


class PromptsAnswer(BaseModel):
    """The session after prompts were added and, if asked for, the masks on the prompted frames."""

    session: SessionInfo
    preview: list[FrameResult] = []


class ImageObject(ObjectResult):
    """An object in an image."""

    proposals: Annotated[
        list[ObjectResult], Field(description="Other masks that the prompts may mean, the best first.")
    ] = []


class ImageResult(BaseModel):
    """The objects in an image."""

    size: Annotated[Size, Field(description="Size of the masks.")]
    prompt_size: Annotated[Size, Field(description="Size of the image, in whose pixels prompts are given.")]
    objects: list[ImageObject]


class Waiting(BaseModel):
    """Tracking waits for its turn, or the next frame takes long. This event is sent every few seconds meanwhile."""

    event: Literal["waiting"] = "waiting"
    position: Annotated[int, Field(description="Place among the videos that wait, from 1; 0 if it is being tracked.")]


class FrameDone(FrameResult):
    """A frame is finished."""

    event: Literal["frame"] = "frame"
    done: Annotated[int, Field(description="Number of steps done.")]
    total: Annotated[int, Field(description="Number of steps in all.")]


class End(BaseModel):
    """Tracking has ended. The results can be fetched."""

    event: Literal["end"] = "end"
    complete: Annotated[bool, Field(description="Whether it reached its end, and was not cancelled.")]
    tracked_frames: int


class Failed(BaseModel):
    """Tracking has failed. Finished frames are kept."""

    event: Literal["error"] = "error"
    detail: str


Event = Waiting | FrameDone | End | Failed


def object_result(entry: dict[str, Any], with_mask: bool = True) -> ObjectResult:
    """An entry of `masks.json` (see `app/results.py`) as it is answered."""
    shown = entry if with_mask else {key: value for key, value in entry.items() if key != "segmentation"}
    return ObjectResult.model_validate(shown)
