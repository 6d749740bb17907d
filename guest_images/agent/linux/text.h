/* A bounded text buffer for replies, and error messages. */
#ifndef AGENT_TEXT_H
#define AGENT_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Room for the longest reply: a dump of eight pages is 64 KiB of hexadecimal digits. */
#define TEXT_BYTES (128 * 1024)

struct text {
	size_t length;
	bool overflow;
	char bytes[TEXT_BYTES];
};

void text_clear(struct text *text);

/* Appends like printf; once something does not fit, nothing more is appended. */
__attribute__((format(printf, 2, 3))) void text_add(struct text *text, const char *format, ...);

/* Appends `,"name":number`. */
void text_number(struct text *text, const char *name, uint64_t number);

/* Appends `,"name":true` or false. */
void text_truth(struct text *text, const char *name, bool truth);

/* Makes {"error": sentence} the whole text; the sentence must not need JSON escapes. */
__attribute__((format(printf, 2, 3))) void text_error(struct text *text, const char *format, ...);

/* Prints one sentence and a newline on stderr. */
__attribute__((format(printf, 1, 2))) void print_error(const char *format, ...);

#endif
