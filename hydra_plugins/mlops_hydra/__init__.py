"""What Hydra must find below its `hydra_plugins` namespace. Imported at every start of any Hydra application."""
