"""Everything that `launch/generate.py` does."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from dllm_jax import errors
from dllm_jax import model as model_lib
from dllm_jax.run import prompt_file, replay, row_file
from dllm_jax.runtime import console
from dllm_jax.text import chat


def generate(
  name: str | pathlib.Path,
  requests: Sequence[prompt_file.Request],
  *,
  overrides: Mapping[str, Any],
  mesh: Mesh,
  screen: console.Console,
  decode: str | None = None,
  seed: int = 0,
  batch_size: int = 8,
  unroll: int | None = None,
  params: str | None = None,
  use_chat: bool | None = None,
  out: pathlib.Path | None = None,
  watch: bool = False,
) -> None:
  """Decodes prompts, and writes or shows their completions.

  Args:
    name: the model, as `Model.open` takes it.
    requests: the prompts.
    overrides: fields of the decoder, over those of the model's.
    mesh: `data` and `fsdp` split the rows of a batch.
    screen: where progress, and the canvas, go.
    decode: name of the decoder; None is the model's.
    seed: seed of the draws; a row's depend on its place in the file.
    batch_size: rows decoded together.
    unroll: see `Model.open`.
    params: which model of a run; None is 'final'.
    use_chat: whether text gets the chat template; see `Model.prompt_template`.
    out: a new file of rows; None: rows go to the standard output, unless the
      canvas is watched.
    watch: shows how each row was decoded, step by step.

  Raises:
    errors.UserError: a model, a row, a flag or a file that is not as it must
      be; except for the disk, before any weight is read.
  """
  model = model_lib.Model.describe(name, params=params)
  try:
    decoder = model.decoder(decode, overrides)
  except errors.UsageError as e:
    raise errors.UsageError(f'{e}; see --help') from e
  decoder.check(model.denoiser)
  template = model.plain
  if any(request.text is not None for request in requests):
    template = model.prompt_template(use_chat)
    if template != model.plain:
      screen.line('prompts are put into the chat template (--nochat: not)')
  rows = [_encode(request, model, template) for request in requests]
  model.check_window(rows, decoder)
  with _outlet(out, watch) as write:
    loaded = model.load(mesh, unroll=unroll, console=screen)
    completions = loaded.complete(
      rows, decoder, seed=seed, batch_size=batch_size
    )
    written = (
      {'id': request.id} | completion.row()
      for request, completion in zip(requests, completions, strict=True)
    )
    if watch:
      for row in written:
        write(row)
        mark = '' if model.is_causal else replay.MASK_MARK
        replay.play(row, model.tokenizer, screen, mark)
    else:
      with screen.stage('generating', len(rows)) as bar:
        for row in written:
          write(row)
          bar.add()
  if out is not None:
    screen.line(f'written: {out}')


def _encode(
  request: prompt_file.Request,
  model: model_lib.Model,
  template: chat.ChatTemplate,
) -> list[int]:
  """The ids of a prompt; an error names the row's place."""
  prompt = request.ids if request.text is None else request.text
  try:
    return model.encode(prompt, template, model.prefill)
  except errors.UserError as e:
    raise errors.UserError(f'{request.where}: {e}') from e


@contextlib.contextmanager
def _outlet(
  out: pathlib.Path | None, watch: bool
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
  """A function that takes a row."""
  if out is not None:
    with row_file.new(out) as write:
      yield write
  elif watch:
    yield lambda row: None
  else:
    yield _print_row


def _print_row(row: Mapping[str, Any]) -> None:
  try:
    print(json.dumps(row), flush=True)
  except OSError as e:
    raise errors.UserError(f'rows cannot be printed: {e.strerror}') from e
