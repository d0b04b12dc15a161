"""The launchers of launch/cluster parse, and name flags that there are."""

import os
import pathlib
import shutil
import subprocess

import pytest
import yaml

FOLDER = pathlib.Path(__file__).resolve().parents[2] / 'launch' / 'cluster'
SCRIPTS = ('tpu_pod.sh', 'slurm.sbatch')


@pytest.mark.parametrize('name', SCRIPTS)
def test_scripts_parse(name):
  subprocess.run(['bash', '-n', FOLDER / name], check=True)


@pytest.mark.parametrize('name', SCRIPTS)
def test_scripts_are_clean(name):
  shellcheck = shutil.which('shellcheck')
  if shellcheck is None:
    pytest.skip('shellcheck is not installed')
  subprocess.run([shellcheck, FOLDER / name], check=True)


def stand_in(folder: pathlib.Path, name: str, text: str) -> None:
  path = folder / name
  path.write_text(f'#!/bin/bash\n{text}\n')
  path.chmod(0o755)


def test_the_pod_gets_the_command_word_by_word(tmp_path):
  stand_in(tmp_path, 'gcloud', 'printf "%s\\n" "$@"')
  done = subprocess.run(
    [FOLDER / 'tpu_pod.sh', 'launch/train.py', '--workdir', '/a b/run'],
    env=os.environ
    | {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'TPU': 'v', 'ZONE': 'z'},
    capture_output=True,
    text=True,
    check=True,
  )
  *args, command = done.stdout.splitlines()
  assert args[-3:] == ['v', '--zone=z', '--worker=all']
  assert command == (
    '--command=cd dllm_jax && exec python3 launch/train.py --workdir '
    '/a\\ b/run --distributed=auto '
  )


@pytest.mark.parametrize('code, requeued', [(0, False), (1, False), (3, True)])
def test_slurm_runs_one_process_a_node(tmp_path, code, requeued):
  # `srun` starts two tasks; `scontrol` knows the nodes.
  stand_in(
    tmp_path,
    'srun',
    'shift; for i in 0 1; do SLURM_PROCID=$i "$@" & pids+=($!); done\n'
    'code=0; for p in "${pids[@]}"; do wait "$p" || code=$?; done; exit $code',
  )
  stand_in(
    tmp_path,
    'scontrol',
    '[[ $1 == show ]] && printf "node7\\nnode8\\n" || echo "$@" >> requeued',
  )
  stand_in(
    tmp_path,
    'python',
    'echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $*" \\\n'
    f'  > task$JAX_PROCESS_ID\nexit {code}',
  )
  done = subprocess.run(
    ['bash', FOLDER / 'slurm.sbatch', 'launch/train.py', '--workdir=a b'],
    env=os.environ
    | {
      'PATH': f'{tmp_path}:{os.environ["PATH"]}',
      'PYTHON': str(tmp_path / 'python'),
      'SLURM_SUBMIT_DIR': str(tmp_path),
      'SLURM_JOB_NODELIST': 'node[7-8]',
      'SLURM_JOB_NUM_NODES': '2',
      'SLURM_JOB_ID': '41',
    },
    cwd=tmp_path,
    check=False,
  )
  assert done.returncode == code
  for task in ('task0', 'task1'):
    told = (tmp_path / task).read_text()
    assert told == 'node7:20041 2 launch/train.py --workdir=a b\n'
  assert (tmp_path / 'requeued').exists() == requeued


def test_the_jobset_is_one_pod_a_host():
  jobset = yaml.safe_load((FOLDER / 'jobset.yaml').read_text('utf-8'))
  assert jobset['kind'] == 'JobSet'
  (job,) = jobset['spec']['replicatedJobs']
  spec = job['template']['spec']
  assert spec['completionMode'] == 'Indexed'
  (container,) = spec['template']['spec']['containers']
  env = {item['name']: item.get('value') for item in container['env']}
  assert env['JAX_NUM_PROCESSES'] == str(spec['completions'])
  assert spec['parallelism'] == spec['completions']
  # A pod's host name: JOBSET-JOB-REPLICA-POD.JOBSET
  name = jobset['metadata']['name']
  host, port = env['JAX_COORDINATOR_ADDRESS'].split(':')
  assert host == f'{name}-{job["name"]}-0-0.{name}'
  assert int(port) == container['ports'][0]['containerPort']
  repo = FOLDER.parents[1]
  assert (repo / container['command'][1]).is_file()
