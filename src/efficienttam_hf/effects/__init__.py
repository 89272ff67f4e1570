"""Effects: what a frame looks like once its objects are known, such as a blurred background or a hidden face.

An effect is a small frozen dataclass. Its fields are its parameters, which are checked once, when it is made. Called
with a frame and the masks of its objects, it returns a new picture and keeps no state:

    hide = Pixelate(objects=(1,), grow=8)
    picture = hide(frame, {1: mask})

A video needs memory from frame to frame: to average edges over time, and to keep an object hidden while it is lost.
:class:`EffectStream` holds that memory, which does not grow with the length of the video. It runs one effect or several
in order, and :func:`parse_effect` reads one from text such as ``pixelate:objects=1+3,grow=8``.

``parameters.py`` checks parameters, ``mattes.py`` has soft masks, ``effect.py`` the class that all effects share,
``highlighting.py``, ``background.py`` and ``hiding.py`` the effects, ``stream.py`` their memory, and ``parsing.py``
reads texts. OpenCV is imported where it is used.
"""

from .background import BlackAndWhite, BlurBackground, Cutout, GreenScreen, ReplaceBackground
from .effect import Effect
from .hiding import Blur, Fill, Hiding, Pixelate
from .highlighting import Outline, Overlay, Spotlight
from .parsing import EFFECTS, parse_effect
from .stream import EffectStream


__all__ = [
    "EFFECTS",
    "BlackAndWhite",
    "Blur",
    "BlurBackground",
    "Cutout",
    "Effect",
    "EffectStream",
    "Fill",
    "GreenScreen",
    "Hiding",
    "Outline",
    "Overlay",
    "Pixelate",
    "ReplaceBackground",
    "Spotlight",
    "parse_effect",
]
