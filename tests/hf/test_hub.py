"""Models by name: pinned, data alone; the hub itself is never asked here."""

import pathlib

import huggingface_hub
import pytest

from dllm_jax import errors
from dllm_jax.hf import hub

COMMIT = '0123456789abcdef0123456789abcdef01234567'


@pytest.fixture
def calls(monkeypatch, tmp_path):
  """What `snapshot_download` was asked for."""
  found = []

  def download(**kwargs):
    found.append(kwargs)
    return str(kwargs['local_dir'])

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  monkeypatch.setenv('DLLM_JAX_CACHE', str(tmp_path / 'cache'))
  return found


def test_a_commit_is_fetched_without_code_or_pickles(calls, tmp_path):
  path = hub.locate(f'GSAI-ML/LLaDA-8B-Instruct@{COMMIT}')
  (call,) = calls
  assert path == pathlib.Path(call.pop('local_dir'))
  assert path.is_relative_to(tmp_path / 'cache') and path.name == COMMIT
  assert call.pop('repo_id') == 'GSAI-ML/LLaDA-8B-Instruct'
  assert call.pop('revision') == COMMIT
  patterns = call.pop('allow_patterns')
  assert call.pop('ignore_patterns') == ['*/*']
  assert not call  # nothing else is asked for
  allowed = lambda name: any(
    pathlib.PurePath(name).match(pattern) for pattern in patterns
  )
  for name in (
    'config.json',
    'model-00001-of-00006.safetensors',
    'model.safetensors.index.json',
    'tokenizer.json',
    'merges.txt',
    'chat_template.jinja',
  ):
    assert allowed(name), name
  for name in ('modeling_llada.py', 'pytorch_model.bin', 'a.pt', 'x.so'):
    assert not allowed(name), name


def test_weights_say_where_they_are_from(calls, tmp_path):
  path = hub.locate(f'GSAI-ML/LLaDA-8B-Instruct@{COMMIT}')
  assert hub.origin(path) == {
    'name': 'GSAI-ML/LLaDA-8B-Instruct',
    'commit': COMMIT,
  }
  own = tmp_path / f'a@{COMMIT}'
  assert hub.origin(own) == {'name': str(own), 'commit': None}


def test_a_folder_is_itself(calls, tmp_path):
  assert hub.locate(str(tmp_path)) == tmp_path
  assert not calls


@pytest.mark.parametrize(
  'name, line',
  [
    ('x' * 300, 'is no path'),
    ('org/name@main', "'main' is not a commit of org/name"),
    ('org/name@v1.0', 'not a commit'),
    (f'org/name@{COMMIT[:-1]}', 'not a commit'),
    (f'org/name@{COMMIT.upper()}', 'not a commit'),
    (f'org/name@{COMMIT}/../x', 'not a commit'),
    ('org/name', 'add the commit that you mean'),
    (f'name@{COMMIT}', 'there is no folder'),
    (f'../name@{COMMIT}', 'there is no folder'),
    (f'a/../b@{COMMIT}', 'there is no folder'),
    ('models/missing/deeper', 'there is no folder models/missing/deeper'),
  ],
)
def test_other_names_are_refused(calls, name, line):
  with pytest.raises(errors.UserError, match=line):
    hub.locate(name)
  assert not calls


def test_a_hub_that_does_not_give_it_is_one_line(monkeypatch, calls):
  def fail(**kwargs):
    raise OSError('no route\nto the host')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', fail)
  with pytest.raises(errors.UserError, match='cannot be downloaded .no route.'):
    hub.locate(f'org/name@{COMMIT}')


def test_the_place_of_a_download_is_known_before(calls, tmp_path):
  name = f'org/name@{COMMIT}'
  assert hub.place(name) == hub.locate(name)
  assert hub.place(str(tmp_path)) == tmp_path
  assert hub.place('runs/base@2') == pathlib.Path('runs/base@2')
