/* A bounded text buffer for replies, and error messages. */
#include "text.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

void text_clear(struct text *text)
{
	text->length = 0;
	text->overflow = false;
	text->bytes[0] = '\0';
}

static void append(struct text *text, const char *format, va_list values)
{
	size_t room = TEXT_BYTES - text->length;
	int needed;

	if (text->overflow)
		return;
	needed = vsnprintf(text->bytes + text->length, room, format, values);
	if (needed < 0 || (size_t)needed >= room)
		text->overflow = true;
	else
		text->length += (size_t)needed;
}

void text_add(struct text *text, const char *format, ...)
{
	va_list values;

	va_start(values, format);
	append(text, format, values);
	va_end(values);
}

void text_number(struct text *text, const char *name, uint64_t number)
{
	text_add(text, ",\"%s\":%" PRIu64, name, number);
}

void text_truth(struct text *text, const char *name, bool truth)
{
	text_add(text, ",\"%s\":%s", name, truth ? "true" : "false");
}

void text_error(struct text *text, const char *format, ...)
{
	va_list values;

	text_clear(text);
	text_add(text, "{\"error\":\"");
	va_start(values, format);
	append(text, format, values);
	va_end(values);
	text_add(text, "\"}");
}

void print_error(const char *format, ...)
{
	va_list values;

	va_start(values, format);
	vfprintf(stderr, format, values);
	va_end(values);
	fputc('\n', stderr);
}
