/* A record of wrong pages, and its JSON. */
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

void mismatch_print(struct text *text, const struct mismatch_log *log)
{
	text_add(text, "[");
	for (unsigned i = 0; i < log->kept; i++) {
		const struct mismatch *m = &log->details[i];

		text_add(text, "%s{\"kind\":\"%s\"", i ? "," : "", m->hole ? "hole" : "data");
		text_number(text, "thread", m->thread);
		text_number(text, "index", m->index);
		text_number(text, "pfn", m->frame);
		text_number(text, "expected_generation", m->expected_generation);
		text_number(text, "found_generation", m->found_generation);
		text_number(text, "expected_step", m->expected_step);
		text_number(text, "found_step", m->found_step);
		text_number(text, "word", m->word);
		text_add(text, "}");
	}
	text_add(text, "]");
}
