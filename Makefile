# make demo   episodes, training and evaluation on a laptop, from nothing
# make test   lint and all tests
# Both set up a virtual environment in .venv first, and go on where they were interrupted.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PROCS  ?= 2

DEMO := runs/demo

.PHONY: demo demo-clean test lint system install

demo: install
	@test -e $(DEMO)/pgn-tiny || $(BIN)/pgn new --out $(DEMO)/pgn-tiny
	$(BIN)/pgn episodes generate --level one_room --split train --episodes 450 --perturb 0.4 \
		--out $(DEMO)/episodes/train --num_proc $(PROCS)
	$(BIN)/pgn episodes generate --level one_room --split val --episodes 60 \
		--out $(DEMO)/episodes/val --num_proc $(PROCS)
	$(BIN)/accelerate launch --config_file recipes/accelerate_cpu.yaml --num_cpu_threads_per_process $(PROCS) \
		train_vln.py recipes/vln_houses_tiny.yaml --resume_from_checkpoint last
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc_per_node $(PROCS) -m pgn_vln evaluate vln \
		--model $(DEMO)/vln --level one_room --split test --episodes 100 --use_cpu true

demo-clean:
	rm -rf $(DEMO)

test: install lint
	$(BIN)/python -m pytest -n $(PROCS) --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: system $(VENV)/.installed

# What apt.txt names and dpkg does not know; elsewhere than on Debian nothing can be said.
system:
	@command -v dpkg >/dev/null || exit 0; \
	missing=$$(grep -v '^#' apt.txt | while read -r name; do dpkg -s $$name >/dev/null 2>&1 || echo $$name; done); \
	test -z "$$missing" || echo "missing system packages; type: sudo apt-get install" $$missing

$(VENV)/.installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; type: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[sim,train,test]"
	@touch $@
