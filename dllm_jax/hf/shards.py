"""The safetensors files of a folder: listed strictly, read slice by slice.

The library reads the tensors. Their headers are checked here before, because
it takes a key that is there twice, and because a file that is wrong deserves a
line that says how. Tensor names are only ever keys of a dict.
"""

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import safetensors

from dllm_jax import errors
from dllm_jax.hf import folder as folder_lib

SINGLE_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'
_SUFFIX = '.safetensors'
_PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl', '.pickle', '.npy', '.npz')
# In bytes; the other dtypes of the format are no weights of ours.
_DTYPES = {
  'F32': ('float32', 4),
  'BF16': ('bfloat16', 2),
  'F16': ('float16', 2),
}
_FORMAT = {v[0]: k for k, v in _DTYPES.items()}


class Tensor(NamedTuple):
  """Where one tensor is.

  Attributes:
    file: the checked path of its file.
    name: its key there.
    dtype: numpy's name of it.
    shape: its dimensions.
  """

  file: pathlib.Path
  name: str
  dtype: str
  shape: tuple[int, ...]


def list_tensors(folder: pathlib.Path) -> dict[str, Tensor]:
  """All tensors of `model.safetensors`, or of the files of its index.

  Raises:
    UserError: no such file, pickles alone, or a file that is not sound.
  """
  if folder_lib.has(folder, SINGLE_FILE):
    return list_file(folder, SINGLE_FILE)
  if not folder_lib.has(folder, INDEX_FILE):
    raise _no_weights(folder)
  where = folder / INDEX_FILE
  index = folder_lib.read_json(folder, INDEX_FILE).get('weight_map')
  if not isinstance(index, dict) or not index:
    raise errors.UserError(f'{where} has no object weight_map; refused')
  files = list(dict.fromkeys(map(_file_name, index.values())))
  for name in files:
    if not name.endswith(_SUFFIX):
      raise errors.UserError(
        f'{where} names a file {folder_lib.short(name)}, which is not a '
        f'{_SUFFIX} file; {_HOW_TO_CONVERT}'
      )
    folder_lib.member(folder, name)
  found = {}
  for name in files:
    tensors = list_file(folder, name)
    listed = {key for key, file in index.items() if file == name}
    for key in sorted(listed ^ set(tensors))[:1]:
      here, there = (where, name) if key in listed else (name, where)
      raise errors.UserError(
        f'{folder}: the tensor {folder_lib.short(key)} is in '
        f'{pathlib.Path(here).name} and not in {pathlib.Path(there).name}; '
        'the folder is not whole'
      )
    found |= tensors
  return found


def list_file(folder: pathlib.Path, name: str) -> dict[str, Tensor]:
  """The tensors of one file, after its header was checked."""
  path = folder_lib.member(folder, name)
  where = str(folder / name)
  header, data_bytes = _header(path, where)
  header.pop('__metadata__', None)
  if not header:
    raise _unsound(where, 'it holds no tensor')
  found, spans = {}, []
  for key, entry in header.items():
    tensor, span = _tensor(path, key, entry, where)
    found[key] = tensor
    spans.append(span)
  end = 0
  for begin, stop in sorted(spans):
    if begin != end:
      how = 'overlap' if begin < end else 'leave a gap'
      raise _unsound(where, f'its tensors {how} at byte {begin}')
    end = stop
  if end != data_bytes:
    how = 'ends early' if end > data_bytes else 'has trailing bytes'
    raise _unsound(
      where, f'it {how}: {data_bytes} bytes of data, {end} are described'
    )
  return found


def read(tensor: Tensor, index: tuple[slice, ...]) -> np.ndarray:
  """A slice of a tensor; the file is open, and mapped, for that long alone."""
  try:
    with safetensors.safe_open(tensor.file, 'np') as f:
      return f.get_slice(tensor.name)[index]
  except (safetensors.SafetensorError, OSError) as e:
    raise errors.UserError(f'{tensor.file} cannot be read: {e}') from None


def write(
  folder: pathlib.Path,
  shapes: Mapping[str, tuple[int, ...]],
  tensors: Iterator[tuple[str, np.ndarray]],
  dtype: str,
  *,
  max_bytes: int,
) -> None:
  """Writes tensors of one dtype in files of at most about `max_bytes` each.

  One file is `model.safetensors`; more have numbers, and an index. A tensor is
  asked for when the one before is on its way to the disk.

  Args:
    folder: of the files; it must not have them yet.
    shapes: of all tensors, in the order of `tensors`.
    tensors: (name, array) pairs.
    dtype: of all of them.
    max_bytes: of a file; a larger tensor has a file of its own.
  """
  files = _plan(shapes, _DTYPES[_FORMAT[dtype]][1], max_bytes)
  width, index, total = len(files), {}, 0
  for number, names in enumerate(files, 1):
    name = SINGLE_FILE
    if width > 1:
      name = f'model-{number:05d}-of-{width:05d}{_SUFFIX}'
    part = {key: shapes[key] for key in names}
    total += write_file(folder / name, part, tensors, dtype)
    index |= dict.fromkeys(names, name)
  if width > 1:
    text = {'metadata': {'total_size': total}, 'weight_map': index}
    (folder / INDEX_FILE).write_text(json.dumps(text, indent=2) + '\n')


def write_file(
  path: pathlib.Path,
  shapes: Mapping[str, tuple[int, ...]],
  tensors: Iterator[tuple[str, np.ndarray]],
  dtype: str,
) -> int:
  """One file, synced to the disk; the bytes of its tensors.

  The library would want all of them in memory.
  """
  kind, header, end = _FORMAT[dtype], {'__metadata__': {'format': 'pt'}}, 0
  for name, shape in shapes.items():
    begin, end = end, end + math.prod(shape) * _DTYPES[kind][1]
    header[name] = {
      'dtype': kind,
      'shape': list(shape),
      'data_offsets': [begin, end],
    }
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)  # so that the data are aligned
  with path.open('wb') as f:
    f.write(len(text).to_bytes(8, 'little') + text)
    for name, shape in shapes.items():
      given, array = next(tensors)
      if (given, array.shape, str(array.dtype)) != (name, shape, dtype):
        raise ValueError(
          f'{given} {array.dtype}{array.shape} came where {name} '
          f'{dtype}{shape} was expected'
        )
      f.write(np.ascontiguousarray(array).view(np.uint8).data)
    f.flush()
    os.fsync(f.fileno())
  return end


def _plan(
  shapes: Mapping[str, tuple[int, ...]], item_bytes: int, max_bytes: int
) -> list[list[str]]:
  """The names of each file."""
  files, room = [], 0
  for name, shape in shapes.items():
    size = math.prod(shape) * item_bytes
    if not files or size > room:
      files.append([])
      room = max_bytes
    files[-1].append(name)
    room -= size
  return files


def _file_name(value: Any) -> str:
  """For sorting alone; `folder.member` judges it."""
  return value if isinstance(value, str) else repr(value)


def _header(path: pathlib.Path, where: str) -> tuple[dict[str, Any], int]:
  """(header, bytes of data after it)."""
  size = path.stat().st_size
  with path.open('rb') as f:
    length = int.from_bytes(f.read(8), 'little')
    if size < 8 or length > size - 8:
      raise _unsound(
        where, f'{size} bytes are too few for a header of {length} bytes'
      )
    if length > folder_lib.MAX_JSON_BYTES:
      raise _unsound(where, f'its header of {length} bytes is too long')
    data = f.read(length)
  header = folder_lib.parse_object(data, f'the header of {where}')
  return header, size - 8 - length


def _tensor(
  path: pathlib.Path, key: str, entry: Any, where: str
) -> tuple[Tensor, tuple[int, int]]:
  shown = folder_lib.short(key)
  if not isinstance(entry, dict) or set(entry) != {
    'dtype',
    'shape',
    'data_offsets',
  }:
    raise _unsound(where, f'tensor {shown} is not described as it must be')
  kind, shape, span = entry['dtype'], entry['shape'], entry['data_offsets']
  if not isinstance(kind, str) or kind not in _DTYPES:
    raise _unsound(
      where,
      f'tensor {shown} has dtype {folder_lib.short(kind)}; weights are '
      f'{", ".join(_DTYPES)}',
    )
  if not _naturals(shape) or not _naturals(span) or len(span) != 2:
    raise _unsound(where, f'tensor {shown} has no proper shape or offsets')
  dtype, item = _DTYPES[kind]
  begin, end = span
  if end - begin != math.prod(shape) * item:
    raise _unsound(
      where,
      f'tensor {shown} has {end - begin} bytes for the shape '
      f'{folder_lib.short(shape)} of {dtype}',
    )
  return Tensor(path, key, dtype, tuple(shape)), (begin, end)


def _naturals(values: Sequence[Any]) -> bool:
  return (
    isinstance(values, list)
    and len(values) <= 8
    and all(type(v) is int and 0 <= v < 2**63 for v in values)
  )


_HOW_TO_CONVERT = (
  'pickles can run code when they are read, so only safetensors are: take the '
  "model's safetensors revision, or have its owner save it with "
  'safe_serialization=True'
)


def _no_weights(folder: pathlib.Path) -> errors.UserError:
  pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
  if pickles:
    return errors.UserError(
      f'{folder} has its weights in {folder_lib.short(pickles[0])}, a pickle; '
      f'{_HOW_TO_CONVERT}'
    )
  return errors.UserError(
    f'{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; is it the folder of '
    'a model?'
  )


def _unsound(where: str, how: str) -> errors.UserError:
  return errors.UserError(f'{where} is not a sound safetensors file: {how}')
