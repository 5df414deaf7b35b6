import subprocess
import sys
from pathlib import Path

OPEN = """
import sys
from pathlib import Path
from parakeet.progress import Progress
from pipelines.instance import open_instance

with open_instance(Path(sys.argv[1]), Progress()) as instance:
    print(len(instance.get_run_records()))
"""


def test_a_new_history_can_be_opened_by_many_processes_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN, str(tmp_path / "home")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ended = [(process.communicate(timeout=120), process.returncode) for process in processes]
    assert [code for _, code in ended] == [0] * 4, [err for (_, err), _ in ended]
    assert [out for (out, _), _ in ended] == ["0\n"] * 4
