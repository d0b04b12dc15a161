"""The launchers of launch/cluster parse, and name flags that there are."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from dllm_jax import errors

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


def slurm(folder: pathlib.Path) -> dict[str, str]:
  """The environment of a job whose programs are in `folder`."""
  return os.environ | {
    'PATH': f'{folder}:{os.environ["PATH"]}',
    'PYTHON': str(folder / 'python'),
    'SLURM_SUBMIT_DIR': str(folder),
    'SLURM_JOB_NODELIST': 'node[7-8]',
    'SLURM_JOB_NUM_NODES': '2',
    'SLURM_JOB_ID': '41',
  }


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
    env=slurm(tmp_path),
    cwd=tmp_path,
    check=False,
  )
  assert done.returncode == code
  for task in ('task0', 'task1'):
    told = (tmp_path / task).read_text()
    assert told == 'node7:20041 2 launch/train.py --workdir=a b\n'
  assert (tmp_path / 'requeued').exists() == requeued


@pytest.mark.parametrize('number', [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_to_the_batch_script_lets_the_tasks_save(tmp_path, number):
  # As srun does it: it hands signals on, but kills its task on SIGTERM.
  stand_in(
    tmp_path,
    'srun',
    'shift; SLURM_PROCID=0 "$@" & task=$!\n'
    "trap 'kill -USR1 $task' USR1; trap 'kill -KILL $task' TERM\n"
    'while kill -0 $task 2>/dev/null; do wait $task; code=$?; done\n'
    'exit $code',
  )
  stand_in(
    tmp_path,
    'scontrol',
    '[[ $1 == show ]] && echo node7 || echo "$@" >> requeued',
  )
  stand_in(
    tmp_path,
    'python',
    "trap 'echo > saved; exit 3' USR1; echo > ready\n"
    'while true; do sleep 0.05; done',
  )
  script = subprocess.Popen(
    ['bash', FOLDER / 'slurm.sbatch', 'launch/train.py'],
    env=slurm(tmp_path),
    cwd=tmp_path,
  )
  try:
    while script.poll() is None and not (tmp_path / 'ready').exists():
      time.sleep(0.02)
    script.send_signal(number)
    assert script.wait(60) == 3
  finally:
    script.kill()
  assert (tmp_path / 'saved').exists() and (tmp_path / 'requeued').exists()


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
  (rule,) = spec['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob'
  assert rule['onExitCodes'] == {
    'containerName': container['name'],
    'operator': 'In',
    'values': [errors.UserError.code, errors.UsageError.code],
  }
  # The job set would start a job again that failed so.
  (rule,) = jobset['spec']['failurePolicy']['rules']
  assert rule['action'] == 'FailJobSet'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  repo = FOLDER.parents[1]
  assert (repo / container['command'][1]).is_file()
