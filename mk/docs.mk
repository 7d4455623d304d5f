# make docs: the documentation as a site, build/site, of which a warning is an error. Search needs it served:
# python -m http.server -d build/site
.PHONY: docs test-docs notebooks
docs: $(VENV)/installed-docs
	rm -rf build/site
	$(BIN)/python docs/lay_out.py
	$(BIN)/zensical build --strict --clean

# The site, built anew, and every link in it, the reference against the packages, and the notebooks, run.
DOCS_TESTS := tests/test_links.py tests/test_site.py tests/test_notebooks.py

test-docs: $(VENV)/installed-docs $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(DOCS_TESTS)

# Run them anew and keep their outputs.
notebooks: $(VENV)/installed-docs
	$(BIN)/python docs/run_notebooks.py

$(VENV)/installed-docs: $(VENV)/installed
	$(INSTALL) -e '.[docs]'
	touch $@
