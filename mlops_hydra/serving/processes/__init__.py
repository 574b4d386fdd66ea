"""The processes of a service beside its workers: who starts and watches them, and who follows the registry."""
