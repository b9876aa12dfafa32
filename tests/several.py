"""What test_parallel.py runs in each of several processes: trainings, one after the other, whose
arguments are in a JSON file."""

import json
import sys
from pathlib import Path

from minisora.cli import main

for arguments in json.loads(Path(sys.argv[1]).read_text()):
    main(arguments)
