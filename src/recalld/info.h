/* info.h - metrics about the process as a whole: its version, its bundles, its reloads. */
#ifndef RECALLD_INFO_H
#define RECALLD_INFO_H

#include "recalld/bundle.h"

void info_register(struct registry *r); /* borrowed as long as anybody scrapes */
void info_reload(bool succeeded);

#endif
