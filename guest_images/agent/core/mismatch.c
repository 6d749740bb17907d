/* A log of wrong pages. */
#include "mismatch.h"

void mismatch_add(struct mismatch_log *log, const struct mismatch *mismatch)
{
	log->count++;
	if (log->kept < MISMATCH_DETAILS)
		log->details[log->kept++] = *mismatch;
}

void mismatch_merge(struct mismatch_log *log, const struct mismatch_log *from)
{
	for (unsigned i = 0; i < from->kept; i++)
		mismatch_add(log, &from->details[i]);
	log->count += from->count - from->kept;
}
