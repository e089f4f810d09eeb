"""Many runs: planned, shared out, executed side by side, watched, resumed."""
