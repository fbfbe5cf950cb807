"""Many runs, one after the other or side by side, to the end whatever happens on the way."""
