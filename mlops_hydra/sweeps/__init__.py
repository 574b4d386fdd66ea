"""Many runs as one study: what is tried, what came of it."""
