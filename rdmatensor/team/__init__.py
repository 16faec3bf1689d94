"""Teams: processes that run collective calls together and send to each other.

`team.py` is what users call, on arrays. `meeting.py`, `joining.py` and `fabric.py` make a team; torch's
process groups use them too. `core.py` has the C objects. How messages travel is in csrc/team/TEAMS.md.
"""
