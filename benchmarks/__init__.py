"""What maskora costs on a machine, measured by commands that anyone can run."""

from maskora.app.failures import quieten_libraries
from maskora.system import show_any_character

quieten_libraries()
show_any_character()
