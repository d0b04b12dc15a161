"""The safetensors files of a folder: listed, read slice by slice, and written.

The library checks headers and reads tensors; it takes a key that is there
twice, so that is checked here. Tensor names are only ever keys of a dict.
"""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
import safetensors
from jax.experimental import multihost_utils

from dllm_jax import errors
from dllm_jax.hf import folder as folder_lib
from dllm_jax.text import json_file

SINGLE_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'
_SUFFIX = '.safetensors'
_PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl', '.pickle', '.npy', '.npz')
# The other dtypes of the format are no weights of ours.
_DTYPES = {'F32': 'float32', 'BF16': 'bfloat16', 'F16': 'float16'}
_FORMAT = {ours: theirs for theirs, ours in _DTYPES.items()}
_LFS = b'version https://git-lfs'


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
  # `folder.member` judges the names.
  names = (v if isinstance(v, str) else repr(v) for v in index.values())
  files = list(dict.fromkeys(names))
  for name in files:
    if not name.endswith(_SUFFIX):
      raise errors.UserError(
        f'{where} names a file {folder_lib.short(name)}, which is not a '
        f'{_SUFFIX} file; {_HOW_TO_CONVERT}'
      )
    folder_lib.member(folder, name)
  every = {}
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
    every |= tensors
  return every


def list_file(folder: pathlib.Path, name: str) -> dict[str, Tensor]:
  """The tensors of one file, after its header was checked."""
  path, where = folder_lib.member(folder, name), folder / name
  with _reading(where), path.open('rb') as f:
    start = f.read(len(_LFS))
    if start == _LFS:
      raise errors.UserError(
        f'{where} is a git-lfs pointer, not the weights: run `git lfs pull` '
        'in the folder, or download the file again'
      )
    length = int.from_bytes(start[:8], 'little')
    if length > json_file.MAX_CONFIG_BYTES:
      raise _damaged(where, f'its header of {length} bytes is too long')
    f.seek(8)
    header = f.read(length)
  tensors = {}
  with _reading(where), safetensors.safe_open(path, 'np') as f:
    # Refuses a key twice, of which the library takes the last.
    json_file.parse_object(header, where)
    for key in f.keys():  # noqa: SIM118 (it is no mapping)
      part = f.get_slice(key)
      kind, shape = part.get_dtype(), tuple(part.get_shape())
      if kind not in _DTYPES:
        raise errors.UserError(
          f'{where}: tensor {folder_lib.short(key)} has dtype {kind}; weights '
          f'are {", ".join(_DTYPES)}: take an unquantized revision'
        )
      tensors[key] = Tensor(path, key, _DTYPES[kind], shape)
  if not tensors:
    raise _damaged(where, 'it holds no tensor')
  return tensors


@contextlib.contextmanager
def _reading(where: pathlib.Path) -> Iterator[None]:
  """One line for a file that cannot be read, or is not of the format."""
  try:
    yield
  except OSError as e:
    raise errors.UserError(
      f'cannot read {where}: {e.strerror or e}; check its permissions and the '
      'disk'
    ) from None
  except safetensors.SafetensorError as e:
    raise _damaged(where, folder_lib.short(e, 200)) from None


def read(tensor: Tensor, index: tuple[slice, ...]) -> np.ndarray:
  """A slice of a tensor; the file is open, and mapped, for that long alone."""
  with _reading(tensor.file):
    with safetensors.safe_open(tensor.file, 'np') as f:
      return f.get_slice(tensor.name)[index]


def to_host(array: jax.Array | np.ndarray) -> np.ndarray:
  """The whole array; all processes call, where it lies on several."""
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    return multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)


def write(
  folder: pathlib.Path,
  like: Mapping[str, jax.ShapeDtypeStruct],
  tensors: Iterator[tuple[str, np.ndarray]],
  *,
  max_bytes: int,
) -> None:
  """Writes tensors in files of at most about `max_bytes` each.

  One file is `model.safetensors`; more have numbers, and an index. A tensor is
  asked for when the one before is on its way to the disk.

  Args:
    folder: folder that does not have the files yet.
    like: shape and dtype of every tensor by name, in the order of `tensors`.
    tensors: (name, array) pairs.
    max_bytes: maximum size of a file; a larger tensor gets its own file.
  """
  files = _plan(like, max_bytes)
  width, index, total = len(files), {}, 0
  for number, names in enumerate(files, 1):
    name = SINGLE_FILE
    if width > 1:
      name = f'model-{number:05d}-of-{width:05d}{_SUFFIX}'
    part = {key: like[key] for key in names}
    total += write_file(folder / name, part, tensors)
    index |= dict.fromkeys(names, name)
  if width > 1:
    text = {'metadata': {'total_size': total}, 'weight_map': index}
    (folder / INDEX_FILE).write_text(json.dumps(text, indent=2) + '\n')


def write_file(
  path: pathlib.Path,
  like: Mapping[str, jax.ShapeDtypeStruct],
  tensors: Iterator[tuple[str, np.ndarray]],
) -> int:
  """One file; the bytes of its tensors.

  The library would want all of them in memory.
  """
  header, end = {'__metadata__': {'format': 'pt'}}, 0
  for name, wanted in like.items():
    begin, end = end, end + wanted.size * wanted.dtype.itemsize
    header[name] = {
      'dtype': _FORMAT[str(wanted.dtype)],
      'shape': list(wanted.shape),
      'data_offsets': [begin, end],
    }
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)  # so that the data are aligned
  with path.open('wb') as f:
    f.write(len(text).to_bytes(8, 'little') + text)
    for name, wanted in like.items():
      given, array = next(tensors)
      here, there = (array.shape, array.dtype), (wanted.shape, wanted.dtype)
      if (given, *here) != (name, *there):
        raise ValueError(f'{given} {here} came where {name} {there} should')
      f.write(np.ascontiguousarray(array).view(np.uint8).data)
  return end


def _plan(
  like: Mapping[str, jax.ShapeDtypeStruct], max_bytes: int
) -> list[list[str]]:
  """The names of each file."""
  files, room = [], 0
  for name, wanted in like.items():
    size = wanted.size * wanted.dtype.itemsize
    if not files or size > room:
      files.append([])
      room = max_bytes
    files[-1].append(name)
    room -= size
  return files


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


def _damaged(where: pathlib.Path, how: str) -> errors.UserError:
  return errors.UserError(
    f'{where} is not a sound safetensors file: {how}; download it again'
  )
