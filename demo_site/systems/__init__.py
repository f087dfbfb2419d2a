"""The systems of the site, each with what it needs to be simulated and proven."""

from __future__ import annotations

from demo_site.systems.appointments import Appointments
from demo_site.systems.base import System
from demo_site.systems.events import Events
from demo_site.systems.lessons import Lessons
from demo_site.systems.profiles import Profiles
from demo_site.systems.tickets import Tickets

SYSTEMS: tuple[System, ...] = (Lessons(), Events(), Tickets(), Appointments(), Profiles())
