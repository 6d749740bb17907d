/* The JSON of a log of wrong pages. */
#include "commands.h"

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
