"""Tasks by name: prompts, demonstrations and verifiers on plain text."""

from dllm_jax.tasks import countdown, sudoku

TASKS = {'countdown': countdown.Countdown, 'sudoku': sudoku.Sudoku}
