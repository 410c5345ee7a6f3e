"""Serve one random workload with two real schedulers of vLLM, one of them kvgpu's, and compare all that they say.

    python tests/in_vllm/soak/run.py --request-steps 2000000 [--seed S] [--manager-only] [--only FEATURE] [--json FILE]
    python tests/in_vllm/soak/run.py --seed S --episode N        # one episode again

After each step: the whole `SchedulerOutput`, the `EngineCoreOutputs` of all clients, KV events, and what each request
knows of itself; every few steps all state of the managers. Only timestamps are left out. An episode is decided by the
seed and its number, with the same `--only`.
Needs an interpreter with vLLM 0.23.0 or 0.33.0.
Exit status: 0 no difference, 1 a difference, 2 vLLM is missing.
"""

import argparse
import json
import logging
import os
import sys
import traceback
from pathlib import Path
from time import process_time

TESTS = Path(__file__).resolve().parents[2]
LENGTH = 3000
"""Request-steps of an episode, until requests stop to come."""


class Failed(Exception):
    """An episode in which the sides differ; the cause is the difference, or an error of the soak."""

    def __init__(self, scenario, step):
        super().__init__(f"seed {scenario.seed}, episode {scenario.number}, step {step}")
        self.scenario, self.step = scenario, step


def soak(request_steps, seed=0, mode="arrays", only=None, first=0, length=LENGTH):
    """Run episodes from `first` on until so many requests were scheduled; the report.

    Raises:
        Failed: The sides differ.
    """
    from in_vllm.soak.episode import Episode
    from in_vllm.soak.report import Report
    from in_vllm.soak.scenario import draw_scenario
    from tqdm import tqdm

    report, number, start = Report(), first, process_time()
    with tqdm(total=request_steps, disable=None, unit="request-step") as bar:
        while report.request_steps < request_steps:
            scenario = draw_scenario(seed, number, length, only)
            episode = None
            try:
                episode = Episode(scenario, mode)
                episode.run()
            except Exception as error:
                raise Failed(scenario, episode.step if episode else 0) from error
            report.add(episode)
            report.cpu_seconds = process_time() - start
            bar.update(report.request_steps - bar.n)
            number += 1
    return report


def told(failed, options):
    """What is needed to see a difference again."""
    scenario = failed.scenario
    rest = "".join([" --manager-only" * options.manager_only, f" --only {options.only}" if options.only else ""])
    return {
        "failed": str(failed),
        "again": f"python tests/in_vllm/soak/run.py --seed {scenario.seed} --episode {scenario.number}{rest}",
        "features": scenario.all_features,
        "scenario": str(scenario),
        "difference": str(failed.__cause__),
        "traceback": traceback.format_exception(failed.__cause__),
    }


def main():
    """Soak, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--request-steps", type=int, default=200_000, help="requests scheduled, in all steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--manager-only", action="store_true", help="kvgpu's manager in vLLM's own scheduler class")
    parser.add_argument("--only", help="a feature that all episodes have")
    parser.add_argument("--episode", type=int, help="run this one alone")
    parser.add_argument("--json", type=Path, help="file for the report")
    options = parser.parse_args()
    sys.path[:1] = [str(TESTS.parent), str(TESTS)]
    logging.disable(logging.ERROR)
    try:
        from in_vllm.oracle import why_no_vllm
        from in_vllm.soak.features import NAMES
    except ImportError as error:
        print(f"vLLM is missing: {error}", file=sys.stderr)
        return 2
    if reason := why_no_vllm("0.23", "0.33"):
        print(reason, file=sys.stderr)
        return 2
    if options.only and options.only not in NAMES:
        parser.error(f"--only: choose from {', '.join(NAMES)}")
    mode = "manager only" if options.manager_only else "arrays"
    steps, first = (options.request_steps, 0) if options.episode is None else (1, options.episode)
    try:
        report = soak(steps, options.seed, mode, options.only, first)
    except Failed as failed:
        plain = told(failed, options)
        for key, value in plain.items():
            print(f"{key}: {''.join(value) if key == 'traceback' else value}")
        status = 1
    else:
        plain, status = report.plain(), 0
        print(report.text())
        print(f"no difference in {report.request_steps:,} request-steps, kvgpu as {mode}, seed {options.seed}")
    if options.json:
        options.json.write_text(json.dumps(plain, indent=1) + "\n")
    return status


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of names are walked in the order of their hashes, which would be another one in each process.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main())
