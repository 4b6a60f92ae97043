# Without a ROS 2 distro: `make demo` and `make test` do all the set-up. `make help` lists the rest.
# DISTRO=kilted|jazzy chooses the ROS 2 wheels, PYTHON=python3.12 the interpreter; LIBRARIES=jammy
# or noble the NumPy and OpenCV of Ubuntu 22.04 or 24.04 instead of the newest.
DISTRO ?= kilted
PYTHON ?= python3

# Another Python or ROS in the caller's shell must not leak into our environments, nor keep the many
# processes of a test run from what one of them has compiled.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PYTHONDONTWRITEBYTECODE _ROS_WHEELS_BOOTSTRAP_COMPLETE
ifdef _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport LD_LIBRARY_PATH
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1

ifeq ($(wildcard requirements/$(DISTRO).txt),)
$(error there are wheels for DISTRO=kilted and DISTRO=jazzy, not for '$(DISTRO)')
endif
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
KIND := $(DISTRO)-$(VERSION)$(LIBRARIES:%=-%)
VENV := $(if $(filter kilted-python3,$(DISTRO)-$(PYTHON)),.venv,.venv-$(KIND))
TEST_VENV := .venv-test-$(KIND)
COLCON := build/colcon/$(KIND)
CROPOND := build/cropond/$(KIND)
TRAINING := build/training/$(KIND)
EXTRAS := build/extras/$(KIND)
CROPOND_WHEELS := $(patsubst %,$(CROPOND)/%/.installed,torch transformers-oldest transformers-newest bitsandbytes)
PURE := build/without_ros/$(VERSION)
SOURCES := CMakeLists.txt package.xml setup.py pyproject.toml \
  $(shell find cmake config crosspoint_ros launch msg srv action tf2_msgs -type f -not -path '*__pycache__*')
TESTS := $(shell find test -name "test_*.py")
# Several tests run at once: more threads in each only wait for each other.
PYTEST := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=1 PATH="$(CURDIR)/$(TEST_VENV)/bin:$$PATH" CROSSPOINT_PREFIX=$(CURDIR)/$(TEST_VENV) pytest

.PHONY: results help demo test test-without-ros test-cropond test-libraries test-training test-extras smoke wheels extra-wheels pip-test colcon-test colcon-smoke lint ruff mypy size clean preflight
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo 'make demo    set up $(VENV), build the package, run the demo on the built-in scene, serve its page'
	@echo 'make test    build with pip and with colcon, run every test, and the smoke test on both'
	@echo 'make test-without-ros  install into a clean environment, without ROS or a compiler, and match two images'
	@echo 'make test-cropond  the tests of CroPond that need PyTorch, on the oldest and newest transformers'
	@echo 'make test-libraries LIBRARIES=jammy|noble  the tests on the NumPy and OpenCV of Ubuntu 22.04 or 24.04'
	@echo 'make test-extras  the tests of `crosspoint mcp`, py_trees, and of picking in MuJoCo (needs libegl1)'
	@echo 'make test-training  two steps of training with the real LLaMA-Factory, on this CPU'
	@echo 'make smoke   the same builds, the smoke test alone'
	@echo 'make lint    ruff and mypy'
	@echo 'make results DATA=FOLDER  measure the figures of docs/benchmarks/results.md again'
	@echo 'make size    what the demo'"'"'s environment takes on disk'
	@echo 'make clean   remove what these commands made'

demo: $(VENV)/.package-$(KIND)
	$(VENV)/bin/crosspoint demo

test: pip-test colcon-smoke

smoke: $(TEST_VENV)/.package-$(KIND) colcon-smoke
	$(PYTEST) test/packaging/test_smoke.py

# A file each: many tests mostly wait for other processes. A browser, a server, a node and cameras
# take two cores: more of them at once would only be late, and say so.
BROWSER_TESTS = test/web test/bench/test_page_drill.py
pip-test: $(TEST_VENV)/.package-$(KIND)
	$(PYTEST) -n 3 --dist loadfile test $(BROWSER_TESTS:%=--ignore=%); rest=$$?; \
	  $(PYTEST) $(BROWSER_TESTS) && exit $$rest

# What computes with NumPy and OpenCV, and the node; the rest is the same on all.
COMPUTE_TESTS = test/core test/data test/matchers/xfeat
NODE_TESTS = test/ros/rviz test/ros/follow $(addprefix test/ros/node/test_, \
  node.py node_refusals.py same_reading.py errors.py conversions.py camera_checks.py image_buffer.py tf.py)
LIBRARY_TESTS ?= $(COMPUTE_TESTS) $(NODE_TESTS)
test-libraries: $(TEST_VENV)/.package-$(KIND)
	$(if $(LIBRARIES),,$(error make test-libraries LIBRARIES=jammy PYTHON=python3.10, or LIBRARIES=noble))
	$(PYTEST) -n 3 --dist loadfile $(LIBRARY_TESTS)

# A clean environment, as on a machine without ROS; no compiler may be called.
test-without-ros:
	$(PYTHON) -m venv --clear $(PURE)
	CC=/bin/false CXX=/bin/false AMENT_PREFIX_PATH= $(PURE)/bin/python -m pip install -q '.[images]'
	$(PURE)/bin/crosspoint match examples/front.jpg examples/side.jpg --at 500 280
	$(PURE)/bin/python examples/two_images.py
	$(PURE)/bin/python examples/custom_matcher.py
	@du -sh $(PURE)

# PyTorch and transformers are not in the test environment: all other tests run without them.
TORCH_TESTS = $(shell grep -rlE 'needs_torch|NEEDS_TORCH|tiny_qwen|reference_decoder|importorskip..torch' test/matchers --include='test_*.py') \
  test/bench/test_latency_baseline.py $(addprefix test/bench/test_crosspoint_run.py::test_, \
  a_checkpoint_of_this_machine_is_asked_every_type \
  a_checkpoint_that_was_trained_again_does_not_go_on_with_the_file)
test-cropond: $(TEST_VENV)/.package-$(KIND) $(CROPOND_WHEELS)
	rm -rf $(CROPOND)/taught  # trained on the oldest, read on the newest
	for end in oldest newest; do \
	  PYTHONPATH=$(CURDIR)/$(CROPOND)/transformers-$$end:$(CURDIR)/$(CROPOND)/torch:$(CURDIR)/$(CROPOND)/bitsandbytes \
	  CROSSPOINT_TAUGHT=$(CURDIR)/$(CROPOND)/taught CROSSPOINT_NEEDS_TORCH=1 $(PYTEST) -n 2 --dist loadfile -o faulthandler_timeout=400 $(TORCH_TESTS) || exit 1; done

# In one process: both render, or talk to a node.
test-extras: $(TEST_VENV)/.package-$(KIND) $(EXTRAS)/.installed
	PYTHONPATH=$(CURDIR)/$(EXTRAS) CROSSPOINT_NEEDS_EXTRAS=1 $(PYTEST) -o faulthandler_timeout=400 \
	  test/bench/test_pick.py test/ros/client/test_mcp_server.py test/examples/test_frameworks.py

$(EXTRAS)/.installed: requirements/extras.txt $(TEST_VENV)/.wheels-$(KIND)
	@echo '== extras into $(@D): half a minute, once'
	rm -rf $(@D)
	$(TEST_VENV)/bin/python -m pip install -q --no-deps --target $(@D) -r $<
	@touch $@

# LLaMA-Factory needs another transformers than the matcher's newest: a separate environment.
test-training: $(TRAINING)/.installed
	PYTHONPATH=$(CURDIR):$(CURDIR)/test/fakes/training OMP_NUM_THREADS=1 \
	  $(TRAINING)/bin/python -m pytest -o faulthandler_timeout=400 test/data/test_llamafactory_real.py

$(TRAINING)/.installed: requirements/training.txt
	@echo '== LLaMA-Factory into $(TRAINING): a minute, once'
	$(PYTHON) -m venv --clear $(TRAINING)
	$(TRAINING)/bin/python -m pip install -q --no-deps -r $<
	@touch $@

# Without its dependencies: pip would fetch another PyTorch.
$(CROPOND)/bitsandbytes/.installed: private ONLY := --no-deps
$(CROPOND)/%/.installed: requirements/%.txt $(TEST_VENV)/.wheels-$(KIND)
	@echo '== $* into $(@D): half a minute, once'
	rm -rf $(@D)
	$(TEST_VENV)/bin/python -m pip install -q $(ONLY) --target $(@D) -r $<
	@touch $@

colcon-smoke: $(COLCON)/.built
	scripts/colcon_on_wheels.sh $(TEST_VENV) $(COLCON) test --ctest-args -R test_smoke

colcon-test: $(COLCON)/.built
	scripts/colcon_on_wheels.sh $(TEST_VENV) $(COLCON) test

lint: ruff mypy

ruff: $(TEST_VENV)/.wheels-$(KIND)
	$(TEST_VENV)/bin/ruff check .

mypy: $(TEST_VENV)/.wheels-$(KIND)
	$(TEST_VENV)/bin/mypy

# DATA is the folder that holds apc_shelf, bin_toys and kitchen_moving. Records hold relative paths only. A command that fails is
# recorded, and shown, as failing.
RECORD = PATH="$(CURDIR)/$(TEST_VENV)/bin:$$PATH" crosspoint dev record $(CURDIR)/docs/benchmarks/results
WITHIN_20 = --figure 'all +\d+ +\S+ +\S+ +([\d.]+)%' --unit ' % within 20 px'
SURE_RIGHT = --figure 'all sets[\s\S]*SURE: right +([\d.]+)' --unit ' % of the sure answers right, images alone' --least 97
results: $(TEST_VENV)/.package-$(KIND) $(EXTRAS)/.installed
	test -d '$(DATA)/bin_toys' -a -d '$(DATA)/apc_shelf' -a -d '$(DATA)/kitchen_moving' || { echo 'make results DATA=FOLDER, which holds apc_shelf, bin_toys and kitchen_moving'; exit 2; }
	-cd '$(DATA)' && $(RECORD)/10.json --title 'Shelf, images alone' $(WITHIN_20) --least 84 -- bench pairs apc_shelf --no-poses --no-depth
	-cd '$(DATA)' && $(RECORD)/11.json --title 'Shelf, poses off by 1 cm and 1 degree' $(WITHIN_20) --least 91 -- bench pairs apc_shelf --noise-cm 1 --noise-deg 1 --no-depth
	-cd '$(DATA)' && $(RECORD)/12.json --title 'Shelf, such poses and depth' $(WITHIN_20) --least 96 -- bench pairs apc_shelf --noise-cm 1 --noise-deg 1
	-cd '$(DATA)' && $(RECORD)/13.json --title 'Shelf and bin, all situations' $(SURE_RIGHT) -- bench pairs apc_shelf bin_toys --situation all
	-cd '$(DATA)' && $(RECORD)/14.json --title 'Shelf and bin, all situations, turned' $(SURE_RIGHT) -- bench pairs apc_shelf bin_toys --situation all --roll random
	-$(RECORD)/20.json --title 'Kitchen' --figure 'accepted, within 10 px .* ([\d.]+) %' --unit ' % within 10 px, wrist' --least 90 -- bench pairs crosspoint_ros/scenes/kitchen
	-$(RECORD)/30.json --title 'Labels built of the kitchen, against ground truth' --figure 'within 3 px .*, ([\d.]+)%' --unit ' % within 3 px' --least 99 -- bench data crosspoint_ros/scenes/kitchen
	-$(RECORD)/31.json --title 'Labels built of the kitchen, visible or not' --figure 'visibility correct: .*, ([\d.]+)%' --unit ' % right' --least 99 -- bench data crosspoint_ros/scenes/kitchen
	-cd '$(DATA)' && $(RECORD)/32.json --title 'Labels built of the shelf, against ground truth' --figure 'within 12 px .*, ([\d.]+)%' --unit ' % within 12 px' --least 95 -- bench data apc_shelf
	-$(RECORD)/40.json --title 'Questions built in one process' --figure 'one process: (\d+)' --unit ' a second' --least 200 -- dev build crosspoint_ros/scenes/kitchen --rounds 1 --processes 2
	-$(RECORD)/41.json --title 'Four processes against one, on two cores' --figure '([\d.]+) times as many' --unit ' times' --least 1.8 -- dev build crosspoint_ros/scenes/kitchen --rounds 5 --processes 4
	mkdir -p build/results && $(TEST_VENV)/bin/python test/fakes/model_replies.py build/results/replies.jsonl
	-$(RECORD)/50.json --title 'Seconds to score ten thousand replies' --figure wall_s --unit ' s' --most 10 -- bench score build/results/replies.jsonl
	-$(RECORD)/60.json --title 'Wrist camera of the kitchen put off by 2 cm and 3 degrees, calibrated' --figure 'error after: .*largest ([\d.]+) mm' --unit ' mm, the largest error' --most 2 -- bench calibrate crosspoint_ros/scenes/kitchen
	-cd '$(DATA)' && $(RECORD)/61.json --title 'Wrist camera of the shelf put off by 3 cm and 3 degrees, calibrated' --figure 'median [\d.]+, largest ([\d.]+)' --unit ' times the residual of the recorded poses' --most 1.3 -- bench calibrate apc_shelf/bag --cm 3 --draws 4 --mask apc_shelf/gripper_mask.png
	-$(RECORD)/62.json --title 'Wrist camera of the kitchen bumped by 1 cm or 1 degree, noticed by clicks' --figure 'alarm within 10 clicks: (\d+) of' --unit ' of 20 bumps within 10 clicks' --least 20 -- bench calibrate crosspoint_ros/scenes/kitchen --bump --cm 1 --deg 1
	-cd '$(DATA)' && $(RECORD)/70.json --title 'Followed: moving things of the kitchen' --figure 'moving points.* ([\d.]+) % within 10 mm' --unit ' % within 10 mm' --least 95 -- bench follow kitchen_moving
	-cd '$(DATA)' && $(RECORD)/71.json --title 'Followed: hidden, and taken away' --figure 'false tracking (\d+) of' --unit ' frames of false tracking' --most 0 -- bench follow kitchen_moving --staged
	-cd '$(DATA)' && $(RECORD)/72.json --title 'Followed without depth: moving things of the kitchen' --figure 'moving points.* ([\d.]+) % within 20 mm' --unit ' % within 20 mm' --least 85 -- bench follow kitchen_moving --no-depth --moving
	-cd '$(DATA)' && $(RECORD)/73.json --title 'The same, clicked after 1.5 s of images' --figure 'moving points.* ([\d.]+) % within 20 mm' --unit ' % within 20 mm' --least 85 -- bench follow kitchen_moving --no-depth --moving --click-after 1.5
	-cd '$(DATA)' && $(RECORD)/75.json --title 'Followed without depth: the other camera stops' --figure 'moving points.* false tracking (\d+) of' --unit ' frames of false tracking' --most 0 -- bench follow kitchen_moving --no-depth --moving --click-after 1.5 --camera wrist --alone-after 1
	-$(RECORD)/74.json --title 'Followed: things at rest while a camera moves' --figure 'points at rest.* drift ([\d.]+) mm, moved or lost 0 frames' --unit ' mm of drift, none moved or lost' --most 2 -- bench follow crosspoint_ros/scenes/kitchen
	-PATH="$(CURDIR)/$(TEST_VENV)/bin:$$PATH" PYTHONPATH=$(CURDIR)/$(EXTRAS) $(RECORD)/80.json --title 'Clicked and picked in MuJoCo, exact extrinsics' --figure 'picked .* of .* \((\d+) %' --unit ' % of the answered clicks' --least 95 -- bench pick --trials 100
	-PATH="$(CURDIR)/$(TEST_VENV)/bin:$$PATH" PYTHONPATH=$(CURDIR)/$(EXTRAS) $(RECORD)/81.json --title 'Clicked and picked in MuJoCo, extrinsics off by 1 cm and 1 degree' --figure 'picked .* of .* \((\d+) %' --unit ' % of the answered clicks' --least 85 -- bench pick --trials 40 --noise-cm 1 --noise-deg 1
	-$(RECORD)/82.json --title 'Masks and widths of clicked things' --figure 'the others:[\s\S]*median error ([\d.]+) mm' --unit ' mm, median error of the width' --most 5 -- bench segment --clicks 6
	-PATH="$(CURDIR)/$(TEST_VENV)/bin:$$PATH" PYTHONPATH=$(CURDIR)/$(EXTRAS) $(RECORD)/84.json --title 'Picked with an arm: a hand-eye transform that is 4 cm and 4 degrees off, calibrated' --figure 'hand-eye calibrated.*picked .* of .* \((\d+) %' --unit ' % of the clicks' --least 85 -- bench pick --trials 8 --arm --clicked wrist --hand-eye-off 4 4
	$(TEST_VENV)/bin/crosspoint dev results docs/benchmarks/results --out docs/benchmarks/results.md

size: $(VENV)/.package-$(KIND)
	@du -sh $(VENV)

clean:
	rm -rf build *.egg-info .venv .venv-kilted-* .venv-jazzy-* .venv-test-*

preflight:
	@scripts/preflight.sh '$(PYTHON)' '$(DISTRO)'

# What pip fetches: several of these may run at once, of different environments.
wheels: $(TEST_VENV)/.wheels-$(KIND)
extra-wheels: $(CROPOND_WHEELS) $(EXTRAS)/.installed

# A stamp is in the environment that it is for; its name holds what it was made from.
$(VENV)/.wheels-$(KIND): requirements/$(DISTRO).txt requirements/python.txt | preflight
	@echo '== the ROS 2 $(DISTRO) wheels into $(VENV): about half a minute, once'
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install -q --use-pep517 -r requirements/$(DISTRO).txt
	@touch $@

$(TEST_VENV)/.wheels-$(KIND): requirements/$(DISTRO).txt requirements/python.txt requirements/test.txt $(LIBRARIES:%=requirements/libraries-%.txt) | preflight
	@echo '== the ROS 2 $(DISTRO) wheels and the test tools into $(TEST_VENV): about a minute, once'
	$(PYTHON) -m venv --clear $(TEST_VENV)
	$(TEST_VENV)/bin/python -m pip install -q --use-pep517 \
	  -r requirements/$(DISTRO).txt -r requirements/test.txt
	$(if $(LIBRARIES),$(TEST_VENV)/bin/python -m pip install -q -r requirements/libraries-$(LIBRARIES).txt)
	@touch $@

%/.package-$(KIND): %/.wheels-$(KIND) $(SOURCES)
	@echo '== this package into $*, with its messages compiled: 20 seconds, or 5 when only Python changed'
	$*/bin/python -m pip install -q --no-deps .
	@touch $@

$(COLCON)/.built: $(TEST_VENV)/.wheels-$(KIND) $(SOURCES) $(TESTS)
	scripts/colcon_on_wheels.sh $(TEST_VENV) $(COLCON) build
	@touch $@
