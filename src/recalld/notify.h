/* notify.h - tells systemd how far the daemon is, by its datagram protocol. Where nobody gave a
 * NOTIFY_SOCKET it does nothing. Main thread only. */
#ifndef RECALLD_NOTIFY_H
#define RECALLD_NOTIFY_H

#include "recalld/base.h"

/* The start, or a reload, is over. `status` is shown by systemctl status. */
void notify_ready(const char *status);
void notify_reloading(void);
/* The stop takes `ms` at most. systemd waits that long even when the unit says less. */
void notify_stopping(int ms);

#endif
