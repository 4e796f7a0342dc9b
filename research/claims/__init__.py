"""The paper's claims put to the test on the miniature: conditions, trials, figures and marks."""
