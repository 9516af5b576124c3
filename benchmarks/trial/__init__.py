"""The parts of the trial of momentum-variance budgets; see ../momentum_variance.py."""
