"""`--compile`: the image encoder compiled by `torch.compile` for the size of its input.

The image encoder always computes with tensors of the same shapes, so that it is compiled once. What torch compiled is
kept in this package's folder in the user's cache directory, for the next run. The other stages are left as they are:
their shapes change in the first frames of each object, and each change would be compiled again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ..configuration_efficienttam import size_pair
from ..kernel_choice import cache_folder


if TYPE_CHECKING:
    from ..modeling_efficienttam_video import EfficientTamVideoModel

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # torch's: where compiled code is kept


def compile_image_encoder(
    model: EfficientTamVideoModel, num_threads: int | None = None, tell: Callable[[str], None] = print
) -> None:
    """Compile a model's image encoder in place, for single frames of its input size.

    Args:
        model: the model, on its device and in its data type.
        num_threads: of torch, on the thread that will encode frames; compiled code holds for one number of threads. By
            default, as many as the calling thread has.
        tell: shows the user a line before compilation and one after it.

    Raises:
        ValueError: if torch cannot compile on this machine, for example because there is no C++ compiler.
    """
    folder = keep_compiled_code()
    encoder: Any = model.vision_encoder
    plain = encoder.forward
    tell("Compiling the image encoder. The first run on a machine takes a minute or more; later runs take seconds.")
    begun, before = time.perf_counter(), torch.get_num_threads()
    pixels = torch.zeros(1, 3, *size_pair(model.config.image_size), device=model.device, dtype=model.dtype)
    torch.set_num_threads(num_threads or before)
    try:
        with compiler_errors(), torch.no_grad():
            encoder.forward = torch.compile(plain, dynamic=False)
            model.encode_frame(pixels[0])
    except BaseException:
        encoder.forward = plain
        raise
    finally:
        torch.set_num_threads(before)
    tell(f"Compiled the image encoder in {time.perf_counter() - begun:.0f} s; the code is kept in '{folder}'.")


def keep_compiled_code() -> str:
    """Have torch keep compiled code in the cache directory, unless its own variable names a folder; return the folder.

    Torch's default is a folder for temporary files, which many systems empty when they start. It is used where the
    cache directory cannot be written.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

    # Parts of torch set the variable to the default when they are imported.
    if os.environ.get(CACHE_VARIABLE) in (None, default_cache_dir()):
        folder = cache_folder() / "compiled"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return cache_dir()
        os.environ[CACHE_VARIABLE] = str(folder)
    return cache_dir()


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Within the block, an error of compilation becomes a `ValueError` of one line, with the way out."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    try:
        yield
    except (TorchDynamoException, CppCompileError, InvalidCxxCompiler) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"--compile does not work on this machine: {reason} torch.compile needs a C++ compiler, such as g++ "
            "(Debian, Ubuntu: apt install g++; the variable CXX names another); without --compile none is needed."
        ) from error
