"""Makes the packaged `conf/` available to every primary config, at the lowest precedence."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from mlops_hydra.config.roots import packaged_conf


class PackagedConf(SearchPathPlugin):
    """A `conf/` of one's own, given by --config-path, may use the packaged options."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the packaged folder unless it is there already."""
        path = f"file://{packaged_conf()}"
        if all(element.path != path for element in search_path.get_path()):
            search_path.append(provider="mlops_hydra", path=path)
