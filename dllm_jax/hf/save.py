"""Writes model folders: weights, config.json, tokenizer files and digests.

A folder is filled under a temporary name and renamed when it is complete. All
processes fetch tensors from the devices one at a time, and process 0 writes
them, so that no host holds the whole model.
"""

import collections
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from dllm_jax import errors, types
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf import load, peft, shards, sidecar
from dllm_jax.hf import table as table_lib
from dllm_jax.models import lora
from dllm_jax.runtime import console, processes
from dllm_jax.text import tokenizer as tokenizer_lib
from dllm_jax.text import words

MAX_SHARD_BYTES = 5 * 10**9  # of a weights file
# A chat template that leaves prompts as they are.
_PLAIN = '{% for message in messages %}{{ message.content }}{% endfor %}'
Text = pathlib.Path | tokenizer_lib.Tokenizer | None


def save(
  target: pathlib.Path,
  params: types.Params,
  record: hf_config.Record,
  *,
  text: Text = None,
  base: str = '',
  kept: Mapping[str, Any] | None = None,
  screen: console.Console | None = None,
) -> None:
  """Writes a model folder; if the parameters have adapters, these alone.

  Args:
    target: path that does not exist; it appears complete or not at all.
    params: parameters of the model.
    record: description of the model; its dtype is that of the parameters.
    text: folder whose tokenizer files are copied, or a word-level tokenizer.
    base: folder or name of the base model, for adapters.
    kept: JSON values to store beside the weights (`sidecar.write`).
    screen: shows a progress bar.

  Raises:
    UserError: the target exists, the disk is full, or the model has no form in
      its family.
  """
  adapters, _ = lora.split(params)
  if adapters and record.model is not None:
    save_adapters(target, adapters, record, base=base, text=text, kept=kept)
    return
  leaves = flax.traverse_util.flatten_dict(params, sep='/')
  save_leaves(
    target,
    iter(leaves.items()),
    leaves,
    record,
    text=text,
    kept=kept,
    screen=screen,
  )


def save_leaves(
  target: pathlib.Path,
  leaves: Iterator[tuple[str, jax.Array]],
  like: Mapping[str, Any],
  record: hf_config.Record,
  *,
  text: Text = None,
  kept: Mapping[str, Any] | None = None,
  screen: console.Console | None = None,
) -> None:
  """Like `save`, for leaves that are produced and released one at a time.

  Args:
    target: as in `save`.
    leaves: (path, leaf) pairs of all parameters.
    like: shape and dtype of every leaf by path, in the order of `leaves`.
    record: description of the model.
    text: as in `save`.
    kept: as in `save`.
    screen: shows a progress bar.
  """
  screen = screen or console.Console(quiet=True)
  dtype = str(jnp.result_type(*(leaf.dtype for leaf in like.values())))
  config = hf_config.render(record, dtype)
  slots = table_lib.tensors(record.family, like)
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in like.values())

  def fill(work, arrays):
    folder_lib.check_space(target, size)
    wanted = {
      name: jax.ShapeDtypeStruct(slot.tensor_shape, like[slot.path].dtype)
      for name, (slot, *_) in slots.items()
    }
    with screen.stage('writing', len(slots)) as bar:
      counted = _counted(arrays, bar.add)
      shards.write(work, wanted, counted, max_bytes=MAX_SHARD_BYTES)
    _write_json(work / hf_config.CONFIG_FILE, config)

  _write(target, _arrays(leaves, slots), fill, text, kept)


def save_adapters(
  target: pathlib.Path,
  adapters: lora.Adapters,
  record: hf_config.Record,
  *,
  base: str,
  text: Text = None,
  kept: Mapping[str, Any] | None = None,
) -> None:
  """Writes an adapter folder in PEFT's layout; arguments as in `save`."""
  arrays = peft.tensors(record.family, adapters)
  _write(
    target,
    arrays,
    lambda work, arrays: peft.save(
      work, dict(arrays), record.family, record.model, base=base
    ),
    text,
    kept,
  )


def _write(
  target: pathlib.Path,
  arrays: Iterator[tuple[str, np.ndarray]],
  fill: Callable[[pathlib.Path, Iterator[tuple[str, np.ndarray]]], None],
  text: Text,
  kept: Mapping[str, Any] | None,
) -> None:
  """Creates a folder, filled by process 0; all processes fetch the arrays."""
  failure = None
  if processes.is_first():
    try:
      with folder_lib.new(target) as work:
        fill(work, arrays)
        _write_text(work, text)
        sidecar.write(work, kept or {})
    except errors.UserError as e:
      failure = e
  if processes.several():
    collections.deque(arrays, maxlen=0)  # All take part in every transfer.

  def finish():
    if failure is not None:
      raise failure

  processes.from_first('the end of a save', finish)


def _arrays(
  leaves: Iterator[tuple[str, jax.Array]],
  slots: Mapping[str, tuple[table_lib.Slot, ...]],
) -> Iterator[tuple[str, np.ndarray]]:
  """(name, array) of every tensor, on the host."""
  names = collections.defaultdict(list)
  for name, parts in slots.items():
    names[parts[-1].path].append((name, parts))
  held = {}  # leaves whose tensors wait for the last of their leaves
  for path, leaf in leaves:
    held[path] = leaf
    del leaf
    for name, parts in names[path]:
      parts = sorted(parts, key=lambda slot: slot.part)
      arrays = [_on_host(held[slot.path], slot) for slot in parts]
      yield name, arrays[0] if len(arrays) == 1 else np.concatenate(arrays, -1)
      del arrays  # Free the memory before the next one.
    for own in {slot.path for _, parts in names[path] for slot in parts}:
      del held[own]


def _on_host(leaf: jax.Array | np.ndarray, slot: table_lib.Slot) -> np.ndarray:
  """The part of a leaf that is of one tensor, as it is stored."""
  array = shards.to_host(leaf[slot.index] if slot.index else leaf)
  return array.T if slot.is_transposed else array


def _counted(
  arrays: Iterator[tuple[str, np.ndarray]], advance: Callable[[], None]
) -> Iterator[tuple[str, np.ndarray]]:
  for item in arrays:
    advance()
    yield item
    del item  # Free the memory before the next one.


def _write_text(work: pathlib.Path, text: Text) -> None:
  """Writes the tokenizer's files and generation_config.json."""
  if isinstance(text, pathlib.Path):
    for name in table_lib.TEXT_FILES:
      if folder_lib.has(text, name):
        folder_lib.copy(text, name, work)
  elif text is not None:
    text.save(work / 'tokenizer.json')
    special = text.special
    config = {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'eos_token': words.EOS,
      'pad_token': words.EOS,
      'mask_token': words.MASK,
      'clean_up_tokenization_spaces': False,
      'chat_template': _PLAIN,
    }
    if special.mask is None:
      del config['mask_token']
    _write_json(work / 'tokenizer_config.json', config)
    ids = {'eos_token_id': special.eos, 'pad_token_id': special.pad}
    _write_json(work / 'generation_config.json', ids)


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(content, indent=2) + '\n', 'utf-8')


def convert(
  source: pathlib.Path,
  target: pathlib.Path,
  mesh: jax.sharding.Mesh,
  *,
  dtype: str | None = None,
  adapter: pathlib.Path | None = None,
  merge: bool = False,
  screen: console.Console | None = None,
) -> None:
  """Copies a model folder: merges adapters, casts weights, splits files.

  One leaf is in memory at a time. Adapters that are not merged are written
  without their base model.

  Args:
    source: folder of weights or of adapters.
    target: path that does not exist; it appears complete or not at all.
    mesh: devices that hold a leaf on its way.
    dtype: dtype of the written weights; None keeps the stored one.
    adapter: folder of adapters to put on the model.
    merge: whether to add the adapters to the kernels.
    screen: shows progress bars and notices.

  Raises:
    UserError: as `load.load`, or the target exists, or the disk is full.
  """
  if dtype is not None and dtype not in table_lib.DTYPES:
    raise errors.UserError(
      f'dtype is {dtype!r}; expected one of {", ".join(table_lib.DTYPES)}'
    )
  folder = load.read(source)
  if adapter is not None:
    folder = load.with_adapters(folder, adapter)
  has = folder.base != folder.path
  if merge and not has:
    raise errors.UserError(
      f'{source} has no adapters to merge; give --lora DIR, or leave '
      '--merge_lora out'
    )
  if has and not merge and dtype:
    raise errors.UserError(
      'adapters are float32, and are written alone: give --merge_lora to cast '
      'the model, or leave --dtype out'
    )
  record, leaves = load.iterate(folder, mesh, param_dtype=dtype, screen=screen)
  if has:
    adapters = peft.load(folder.path, record.family, record.model, mesh)
  if has and not merge:
    base = peft.base_of(folder.path, folder.base)
    save_adapters(target, adapters, record, base=base, text=folder.text)
    return
  if has:
    leaves = lora.merge_leaves(leaves, adapters, record.model)
    record = record.replace(lora_rank=0)
  like = table_lib.targets(record.denoiser, mesh)
  save_leaves(target, leaves, like, record, text=folder.text, screen=screen)
