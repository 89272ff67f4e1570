"""`--compile`: the compiled image encoder gives what the plain one gives, and a missing compiler is said in a line."""

from __future__ import annotations

import os
import re
import shutil

import pytest
import torch
from reference import lively_model

from efficienttam_hf.app import compiling
from efficienttam_hf.app.compiling import compile_image_encoder, keep_compiled_code


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache directory of its own, and nothing compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    del os.environ["TORCHINDUCTOR_CACHE_DIR"]  # set above, so that it is put back afterwards
    yield tmp_path / "efficienttam" / "compiled"
    torch._dynamo.reset()


@pytest.mark.slow  # some 20 s of compilation
def test_a_compiled_image_encoder_gives_what_the_plain_one_gives(cache):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    model, told = lively_model(), []
    pixels = torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.encode_frame(pixels)
    compile_image_encoder(model, tell=told.append)
    assert len(told) == 2 and re.search(rf"in \d+ s; the code is kept in '{re.escape(str(cache))}'", told[1])
    kept = {path for path in cache.rglob("*") if path.is_file()}
    assert kept
    with torch.no_grad():
        compiled = model.encode_frame(pixels)
    torch.testing.assert_close(compiled, expected, atol=1e-4, rtol=1e-4)

    torch._dynamo.reset()  # as a new process begins
    another = lively_model()
    compile_image_encoder(another, tell=told.append)
    with torch.no_grad():
        assert torch.equal(another.encode_frame(pixels), compiled)


def test_without_a_compiler_a_line_says_so_and_the_model_stays_as_it_was(monkeypatch):
    from torch._inductor.exc import InvalidCxxCompiler

    def compile_nothing(function, **options):
        def fail(*args, **kwargs):
            raise InvalidCxxCompiler

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    model = lively_model()
    before, threads = model.vision_encoder.forward, torch.get_num_threads()
    with pytest.raises(
        ValueError, match="No working C\\+\\+ compiler found.*without --compile none is needed"
    ) as raised:
        compile_image_encoder(model, num_threads=1, tell=lambda line: None)
    assert "\n" not in str(raised.value)
    assert model.vision_encoder.forward == before
    assert torch.get_num_threads() == threads


def test_compiled_code_is_kept_in_the_cache_directory_unless_torch_is_told_another(cache, tmp_path, monkeypatch):
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    assert keep_compiled_code() == str(cache)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())  # by torch itself
    assert keep_compiled_code() == str(cache)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    assert keep_compiled_code() == str(tmp_path / "mine")


def test_a_cache_directory_that_cannot_be_written_is_not_used(cache):
    cache.parent.write_text("a file where the folder should be")
    assert keep_compiled_code() != str(cache)
    assert compiling.CACHE_VARIABLE in os.environ
