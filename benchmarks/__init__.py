"""What maskora costs on a machine, measured by commands that anyone can run."""

from maskora.system import quieten_libraries, show_any_character

quieten_libraries()
show_any_character()
