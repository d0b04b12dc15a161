"""Settings for every test; pytest-xdist's workers import this file too.

Tests run on the CPU with eight fake devices. For a GPU:
JAX_PLATFORMS=cuda,cpu pytest -m gpu
"""

import ctypes
import gc
import os
import pathlib
import subprocess
import sys

if 'jax' in sys.modules:
  raise RuntimeError('jax was imported before tests/conftest.py set XLA_FLAGS')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_flags = os.environ.get('XLA_FLAGS', '')
for _flag in (
  '--xla_force_host_platform_device_count=8',
  # Tests compile far more than they compute. Without LLVM's optimizations and
  # the newer fusion emitters, compiling takes less than half of the time.
  '--xla_backend_optimization_level=0',
  '--xla_cpu_use_fusion_emitters=false',
):
  if _flag.partition('=')[0] not in _flags:
    _flags = f'{_flags} {_flag}'.strip()
os.environ['XLA_FLAGS'] = _flags

import jax  # noqa: E402
import pytest  # noqa: E402

_REPO = pathlib.Path(__file__).resolve().parents[1]
_CACHE = os.environ.get('DLLM_JAX_CACHE') or '~/.cache/dllm_jax'

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)
jax.config.update('jax_default_matmul_precision', 'highest')
jax.config.update(
  'jax_compilation_cache_dir', str(pathlib.Path(_CACHE).expanduser() / 'xla')
)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def pytest_collection_modifyitems(items):
  for item in items:
    if item.get_closest_marker('gpu') and jax.default_backend() == 'cpu':
      item.add_marker(pytest.mark.skip(reason='JAX sees no accelerator'))


@pytest.fixture(scope='module', autouse=True)
def _free_compiled_programs():
  """Frees what earlier modules compiled, once it is more than 1 GB.

  Otherwise a worker keeps about 0.4 GB a module. What a later module compiles
  again comes from the persistent cache.
  """
  yield
  if sys.platform != 'linux' or _resident_bytes() < 1e9:
    return
  jax.clear_caches()
  gc.collect()
  ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed


def _resident_bytes() -> int:
  pages = pathlib.Path('/proc/self/statm').read_text().split()[1]
  return int(pages) * os.sysconf('SC_PAGE_SIZE')


@pytest.fixture(scope='session')
def shared_dir() -> pathlib.Path:
  """The recordings and data beside the checkout, or $DLLM_JAX_SHARED."""
  path = pathlib.Path(
    os.environ.get('DLLM_JAX_SHARED') or _REPO.parent / 'shared'
  )
  if not path.is_dir():
    pytest.skip(f'the shared data are not at {path}; set DLLM_JAX_SHARED')
  return path


@pytest.fixture(scope='session')
def smollm2_dir() -> pathlib.Path:
  """SmolLM2-135M-Instruct as `tools/smollm2.py` of the shared data makes it."""
  path = os.environ.get('DLLM_JAX_SMOLLM2')
  if not path:
    pytest.skip(
      'DLLM_JAX_SMOLLM2 is not set: make the folder with tools/smollm2.py of '
      'the shared data'
    )
  return pathlib.Path(path)


@pytest.fixture(scope='session')
def commands(tmp_path_factory):
  """Runs launch/ commands in processes of their own."""
  from tests import commands as module

  server = module.Server(tmp_path_factory.mktemp('commands'))
  yield server
  server.close()


@pytest.fixture
def mounted(tmp_path):
  """Mounts a small file system in memory: mounted('size=1m'); for root."""
  places = []

  def mount(options):
    place = tmp_path / f'mount{len(places)}'
    place.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
      pytest.skip(f'cannot mount a file system: {done.stderr.strip()}')
    places.append(place)
    return place

  yield mount
  for place in places:
    subprocess.run(['umount', str(place)], check=True)
