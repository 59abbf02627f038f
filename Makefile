# make demo   episodes, training from the tiny base, and evaluation in unseen houses, on a laptop
# make base   the tiny base itself, from nothing (about an hour on two cores)
# make test   lint and all tests
# All set up a virtual environment in .venv first, and go on where they were interrupted.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PROCS  ?= 2

DEMO := runs/demo
BASE := runs/base
PUBLISHED := checkpoints/pgn-tiny-base
LAUNCH := $(BIN)/accelerate launch --config_file recipes/accelerate_cpu.yaml --num_cpu_threads_per_process $(PROCS)
EVALUATE := OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc_per_node $(PROCS) -m pgn_vln evaluate vln

.PHONY: demo demo-clean base test lint system install

demo: install
	$(BIN)/pgn episodes generate --level one_room --split train --episodes 2500 \
		--out $(DEMO)/episodes/train --num_proc $(PROCS)
	$(BIN)/pgn episodes generate --level one_room --split val --episodes 60 \
		--out $(DEMO)/episodes/val --num_proc $(PROCS)
	$(LAUNCH) train_vln.py recipes/vln_one_room.yaml --resume_from_checkpoint last
	$(EVALUATE) --model $(DEMO)/one_room --level two_rooms --split test --episodes 30 --use_cpu true
	$(EVALUATE) --model $(DEMO)/one_room --level one_room --split test --episodes 100 --use_cpu true

# The card's table is measured on what is published.
base: install
	@test -e $(BASE)/new || $(BIN)/pgn new --out $(BASE)/new
	$(LAUNCH) train_grounding.py recipes/grounding_tiny.yaml --resume_from_checkpoint last
	rm -rf $(BASE)/published && mkdir -p $(BASE)/published $(dir $(PUBLISHED))
	cp $$(find $(BASE)/pgn-tiny-base -maxdepth 1 -type f ! -name '*.bin' ! -name metrics.jsonl) $(BASE)/published
	rm -rf $(PUBLISHED) && mv $(BASE)/published $(PUBLISHED)
	$(BIN)/pgn evaluate grounding --model $(PUBLISHED) --card true

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
