"""Whether what a service is asked still looks like what its models were trained on: its companion, and what it says."""
