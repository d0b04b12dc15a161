"""Completions of given prompts: everything that `launch/generate.py` does.

Rows are decoded in batches, in their order; a row's completion depends neither
on its batch nor on the padding. Dims: B rows, P prompt columns, L completion
columns.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from dllm_jax import decoding, errors, types
from dllm_jax.ops import streams
from dllm_jax.rollout import answer_free, prompts
from dllm_jax.run import model_source, prompt_file, replay, row_file
from dllm_jax.runtime import console, sharding
from dllm_jax.text import chat
from dllm_jax.text import tokenizer as tokenizer_lib

# Prompts are padded to a multiple of this, so that few shapes are compiled.
WIDTH = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
  """How to decode, as far as the user says.

  Attributes:
    decode: name of the decoder; None is the model's.
    overrides: fields of the decoder, over those of the model's.
    seed: of the draws; a row's are those of its place in the file.
    batch_size: rows decoded together.
  """

  overrides: Mapping[str, Any]
  decode: str | None = None
  seed: int = 0
  batch_size: int = 8


class _Opened(NamedTuple):
  """What a batch is decoded with."""

  denoiser: types.Denoiser
  params: types.Params
  vocab: types.Vocabulary
  decoder: types.Decoder
  key: Key[Array, '']
  mesh: Mesh


def generate(
  directory: pathlib.Path,
  requests: Sequence[prompt_file.Request],
  options: Decoding,
  *,
  mesh: Mesh,
  screen: console.Console,
  name: str = '',
  params: str | None = None,
  use_chat: bool | None = None,
  out: pathlib.Path | None = None,
  watch: bool = False,
) -> None:
  """Decodes prompts, and writes or shows their completions.

  Args:
    directory: a Hugging Face folder, a converted one, or the workdir of a run.
    requests: the prompts.
    options: how.
    mesh: `data` and `fsdp` split the rows of a batch.
    screen: where progress, and the canvas, go.
    name: of the model, as the user gave it.
    params: which model of a run; None is 'final'.
    use_chat: whether text gets the chat template; None: see
      `model_source.template`.
    out: a new file of rows; None: rows go to the standard output, unless the
      canvas is watched.
    watch: shows how each row was unmasked, step by step.

  Raises:
    errors.UserError: a model, a row, a flag or a file that is not as it must
      be; but for the disk, before any weight is read.
  """
  source = model_source.find(directory, params)
  decoder = _decoder(source, options)
  template = chat.PLAIN
  if any(request.text is not None for request in requests):
    template = model_source.template(directory, source, name, use_chat)
    if template is not chat.PLAIN:
      screen.line('prompts are put into the chat template (--nochat: not)')
  rows = [encode(request, source, template) for request in requests]
  with _outlet(out, watch) as write:
    found = _completions(
      _open(source, decoder, options, mesh, screen),
      requests,
      rows,
      options.batch_size,
      source.tokenizer,
    )
    if watch:
      for row in found:
        write(row)
        replay.play(row, source.tokenizer, screen)
    else:
      with screen.stage('generating', len(rows)) as bar:
        for row in found:
          write(row)
          bar.step()
  if out is not None:
    screen.line(f'written: {out}')


def _decoder(source: model_source.Source, options: Decoding) -> types.Decoder:
  """The model's decoder with the user's overrides.

  Raises:
    errors.UsageError: an override that the decoder would not read, or a wrong
      one.
  """
  try:
    return decoding.apply_overrides(
      source.decoders, options.decode or source.decode, options.overrides
    )
  except ValueError as e:
    raise errors.UsageError(f'{e}; see --help') from e


def encode(
  request: prompt_file.Request,
  source: model_source.Source,
  template: chat.ChatTemplate,
) -> list[int]:
  """The ids of a prompt.

  Raises:
    errors.UserError: names the row's place, and what is wrong with it.
  """
  if request.text is None:
    if max(request.ids) >= source.rows:
      raise errors.UserError(
        f'{request.where}: prompt_ids has {max(request.ids)}, and the model '
        f'has ids up to {source.rows - 1}'
      )
    return list(request.ids)
  if source.tokenizer is None:
    raise errors.UserError(
      f'{request.where}: the prompt is text, and the model has no tokenizer; '
      'give prompt_ids, or put the tokenizer into its folder'
    )
  try:
    pieces = template.render(request.text)
    ids = source.tokenizer.encode_pieces([pieces])[0].ids
  except ValueError as e:
    hint = ''
    if source.record is None:
      hint = (
        '; the model of a run knows the words of its task alone, most with the '
        "space before them (' 3', not '3'): write the prompt as the task does"
      )
    raise errors.UserError(f'{request.where}: {e}{hint}') from e
  if not ids:
    raise errors.UserError(f'{request.where}: the prompt has no tokens')
  return ids


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


def _open(
  source: model_source.Source,
  decoder: types.Decoder,
  options: Decoding,
  mesh: Mesh,
  screen: console.Console,
) -> _Opened:
  denoiser, params = source.load(mesh, screen)
  return _Opened(
    denoiser=denoiser,
    params=params,
    vocab=source.vocab,
    decoder=decoder,
    # As `eval.accuracy` draws, so that the same rows are decoded alike.
    key=streams.step_key(jax.random.key(options.seed), 'eval', 0),
    mesh=mesh,
  )


def _completions(
  opened: _Opened,
  requests: Sequence[prompt_file.Request],
  rows: Sequence[list[int]],
  batch_size: int,
  tokenizer: tokenizer_lib.Tokenizer | None,
) -> Iterator[dict[str, Any]]:
  """The rows that are written, in order."""
  shards = sharding.num_row_shards(opened.mesh)
  num_rows = -(-min(batch_size, len(rows)) // shards) * shards
  for start in range(0, len(rows), num_rows):
    chunk = slice(start, start + num_rows)
    found = _decode(opened, rows[chunk], start, num_rows)
    for i, ids in enumerate(rows[chunk]):
      tokens = found.tokens[i].tolist()
      yield {
        'id': requests[start + i].id,
        'prompt_ids': ids,
        'completion_ids': tokens,
        'text': None if tokenizer is None else replay.text(tokenizer, tokens),
        'commit_step': found.commit_step[i].tolist(),
        'num_steps': int(found.num_steps[i]),
        'logp': found.logp[i].tolist(),
      }


def _decode(
  opened: _Opened, rows: Sequence[list[int]], start: int, num_rows: int
) -> types.Trajectory:
  """One batch, padded to `num_rows`; the result is on the host."""
  width = -(-max(map(len, rows)) // WIDTH) * WIDTH
  padded = prompts.pad_left(rows, width, opened.vocab.eos_token)
  row_id = np.arange(start, start + len(rows), dtype=np.int32)
  trajectory = answer_free.sample(
    opened.denoiser,
    opened.params,
    opened.key,
    prompts.RowPrompts(
      prompts.pad_rows(padded.ids, num_rows),
      prompts.pad_rows(padded.mask, num_rows),
      prompts.pad_rows(row_id, num_rows),
    ),
    opened.decoder,
    mesh=opened.mesh,
    vocab=opened.vocab,
  )
  return jax.device_get(trajectory)
