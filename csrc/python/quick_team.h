/* quick_team.h: a team as its calls know it. They wait for other processes, so all of them give the
 * interpreter's lock up. `inside` counts the threads in C: whoever closes a team waits until none is
 * left. All counts change with the interpreter's lock held. */
#ifndef RT_PYTHON_QUICK_TEAM_H
#define RT_PYTHON_QUICK_TEAM_H

#include "python/quick_parts.h"
#include "rdmatensor_team.h"

typedef struct quick_team {
    quick_holder of; /* held: the handle, None once it is closed */
    unsigned long long pointer;
    unsigned int inside; /* threads in a call */
    char collective;     /* one of them is in a collective call */
} quick_team;

extern PyTypeObject *quick_team_type;

/* The C team while it is open, else NULL. */
rt_team *quick_team_open(const quick_team *self);
/* Raises the error that the team's Python part makes of a status: NULL. An exception that C's
 * questions have left comes first. */
PyObject *quick_team_raise(PyObject *team, int status, const char *text);

#endif
