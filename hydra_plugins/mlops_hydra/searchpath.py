"""Makes the packaged `conf/` available to every primary config of `mlops-hydra`, at the lowest precedence."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from mlops_hydra.config.roots import is_offered, packaged_conf


class PackagedConf(SearchPathPlugin):
    """A `conf/` of one's own, given by --config-path, may use the packaged options."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the packaged folder unless it is there already, or the application is another."""
        path = f"file://{packaged_conf()}"
        if is_offered() and all(element.path != path for element in search_path.get_path()):
            search_path.append(provider="mlops_hydra", path=path)
