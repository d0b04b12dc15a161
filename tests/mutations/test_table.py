"""The table of mutations fits the tree; `-m slow` runs a few of them."""

import pytest

from tests.mutations import run, table


def test_every_mutation_fits_the_tree():
  assert run.misfits(table.MUTATIONS) == []
  assert len({(m.file, m.line, m.into) for m in table.MUTATIONS}) == len(
    table.MUTATIONS
  )
  assert len(table.MUTATIONS) >= 80


@pytest.mark.parametrize('index', range(len(table.MUTATIONS)))
def test_a_mutated_file_is_python(index):
  mutation = table.MUTATIONS[index]
  path = run.REPO / 'dllm_jax' / mutation.file
  lines = path.read_text('utf-8').splitlines()
  changed = [
    line.replace(mutation.line, mutation.into)
    if line.strip() == mutation.line
    else line
    for line in lines
  ]
  assert changed != lines
  compile('\n'.join(changed), mutation.file, 'exec')


def test_a_misfit_is_named():
  gone = table.Mutation('rl/losses.py', 'no such line', 'x', 'rl/none.py')
  [line, test] = run.misfits([gone])
  assert 'the line occurs 0 times' in line
  assert 'no test module rl/none.py' in test


@pytest.mark.slow
def test_a_mutation_is_noticed_and_the_tree_itself_passes(monkeypatch, capsys):
  harmless = table.Mutation(
    'rl/losses.py',
    'import jax.numpy as jnp',
    'import jax.numpy as jnp  #',
    'rl/test_losses.py',
  )
  harmful = next(m for m in table.MUTATIONS if m.file == 'rl/losses.py')
  monkeypatch.setattr(table, 'MUTATIONS', (harmless, harmful))
  assert run.main([]) == 1  # half of them
  said = capsys.readouterr().out
  assert 'SURVIVED: rl/losses.py: import' in said and 'noticed: 1 of 2' in said
