"""Imports point down the layers, and some things are imported nowhere."""

import ast
import pathlib

import pytest

REPO = pathlib.Path(__file__).resolve().parents[1]
RANK = {
  'types': 0,
  'errors': 0,
  'ops': 1,
  'analysis': 1,
  'sharding': 1,
  'models': 2,
  'decoding': 2,
  'rl': 2,
  'tasks': 2,
  'text': 2,
  'data': 3,
  'io': 3,
  'rollout': 4,
  'train': 5,
  'eval': 5,
  'loop': 6,
  'settings': 7,
  'experiment': 8,
  'bench': 9,
}
FORBIDDEN = (
  'tensorflow',
  'torch',
  'transformers',
  'clu',
  'flax.nnx',
  'pickle',
  'cPickle',
  'dill',
  'cloudpickle',
)
# prefix of a module: the only places that may import it
ONLY_IN = {
  'orbax': ('io/checkpoint.py',),
  'flax.linen': ('models/',),
  'matplotlib': ('analysis/',),
}
# The one module that may import the library it is measured against.
TORCH = 'bench/torch_reference.py'
# Where code is run on purpose, confined.
SANDBOX = 'tasks/sandbox'


def _imports(tree: ast.Module, package: list[str]):
  """Dotted names of all that is imported; `from a import b` gives a.b."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = node.module.split('.') if node.module else []
      if node.level:
        base = package[: len(package) - node.level + 1] + base
      yield from ('.'.join([*base, alias.name]) for alias in node.names)


def _starts(name: str, prefix: str) -> bool:
  return name == prefix or name.startswith(prefix + '.')


def faults(path: str, source: str) -> list[str]:
  """What is wrong with the module at `path`, relative to dllm_jax/."""
  tree = ast.parse(source)
  found = []
  if not ast.get_docstring(tree):
    found.append('has no docstring')
  own = path.split('/')[0].removesuffix('.py')
  if own != '__init__' and own not in RANK:
    found.append(f'{own} has no layer')
  package = ['dllm_jax', *path.split('/')[:-1]]
  for name in _imports(tree, package):
    parts = name.split('.')
    if parts[0] == 'dllm_jax' and len(parts) > 1 and parts[1] != own:
      if RANK.get(parts[1], 99) >= RANK.get(own, 99):
        found.append(f'imports {name}, which is not below it')
    allowed = path == TORCH and _starts(name, 'torch')
    if any(_starts(name, prefix) for prefix in FORBIDDEN) and not allowed:
      found.append(f'imports {name}')
    for prefix, places in ONLY_IN.items():
      if _starts(name, prefix) and not path.startswith(places):
        found.append(f'imports {name}, which is for {places[0]}')
  if not path.startswith(SANDBOX):
    found += [f'calls {name}()' for name in _dangerous_calls(tree)]
  return found


def _dangerous_calls(tree: ast.Module) -> list[str]:
  return [
    node.func.id
    for node in ast.walk(tree)
    if isinstance(node, ast.Call)
    and isinstance(node.func, ast.Name)
    and node.func.id in ('eval', 'exec')
  ]


def _modules():
  root = REPO / 'dllm_jax'
  return sorted(str(p.relative_to(root)) for p in root.rglob('*.py'))


@pytest.mark.parametrize('path', _modules())
def test_module_keeps_to_its_layer(path):
  source = (REPO / 'dllm_jax' / path).read_text('utf-8')
  assert faults(path, source) == []


@pytest.mark.parametrize('folder', ['launch', 'configs'])
def test_no_code_is_evaluated_elsewhere(folder):
  for path in (REPO / folder).rglob('*.py'):
    tree = ast.parse(path.read_text('utf-8'))
    assert not _dangerous_calls(tree), path
    assert not {'pickle', 'torch'} & set(_imports(tree, [])), path


@pytest.mark.parametrize(
  'path, line, fault',
  [
    ('ops/a.py', 'from dllm_jax.rl import losses', 'dllm_jax.rl.losses'),
    ('ops/a.py', 'import dllm_jax.loop', 'dllm_jax.loop'),
    ('ops/a.py', 'from dllm_jax import analysis', 'dllm_jax.analysis'),
    ('ops/a.py', 'from ..rl import losses', 'dllm_jax.rl.losses'),
    ('ops/a.py', 'from .. import loop', 'dllm_jax.loop'),
    ('ops/a.py', 'def f():\n  from dllm_jax import io', 'dllm_jax.io'),
    ('decoding/a.py', 'from dllm_jax.models import moe', 'dllm_jax.models'),
    ('nowhere/a.py', 'import math', 'no layer'),
    ('ops/a.py', 'from dllm_jax import nowhere', 'dllm_jax.nowhere'),
    ('io/metrics.py', 'import orbax.checkpoint', 'orbax.checkpoint'),
    ('rl/a.py', 'from flax import linen as nn', 'flax.linen'),
    ('models/a.py', 'from flax import nnx', 'flax.nnx'),
    ('models/a.py', 'import torch.nn', 'torch'),
    ('bench/suites.py', 'import torch', 'torch'),
    ('bench/torch_reference.py', 'import transformers', 'transformers'),
    ('experiment/a.py', 'from dllm_jax import bench', 'dllm_jax.bench'),
    ('tasks/a.py', 'import pickle', 'pickle'),
    ('tasks/a.py', 'x = eval("1")', 'eval'),
    ('loop.py', 'exec("1")', 'exec'),
  ],
)
def test_the_checker_sees(path, line, fault):
  found = faults(path, f'"""A module."""\n{line}\n')
  assert len(found) == 1 and fault in found[0]


@pytest.mark.parametrize(
  'path, line',
  [
    ('bench/torch_reference.py', 'import torch.nn.functional as F'),
    ('loop.py', 'from dllm_jax import errors\nfrom dllm_jax.io import metrics'),
    ('ops/a.py', 'from dllm_jax.ops import b\nfrom . import c'),
    ('models/a.py', 'import flax.linen as nn\nfrom dllm_jax import types as T'),
    ('rl/a.py', 'import jax\njax.eval_shape(len)\ntorchlight = 1'),
  ],
)
def test_the_checker_lets_pass(path, line):
  assert faults(path, f'"""A module."""\n{line}\n') == []


def test_the_checker_wants_a_docstring():
  assert faults('ops/a.py', 'x = 1\n') == ['has no docstring']
