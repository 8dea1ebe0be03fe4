/*
 * Raw mode of the terminal on standard input, termios(3). The process has one terminal and an
 * exit handler takes no argument, hence the one piece of file-static state.
 */
#include "host/tty.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

static struct {
	pthread_mutex_t lock;
	bool raw, at_exit;
	pid_t owner; /* a forked child must not touch the parent's terminal */
	struct termios saved;
	const char *leave;
} tty = { .lock = PTHREAD_MUTEX_INITIALIZER };

bool tty_usable(void)
{
	return isatty(STDIN_FILENO) && tcgetpgrp(STDIN_FILENO) == getpgrp();
}

void tty_raw_leave(void)
{
	pthread_mutex_lock(&tty.lock);
	if (tty.raw && tty.owner == getpid()) {
		if (tty.leave && write(STDOUT_FILENO, tty.leave, strlen(tty.leave)) < 0)
			errno = 0; /* nobody is left to be told */
		tcsetattr(STDIN_FILENO, TCSADRAIN, &tty.saved);
		tty.raw = false;
	}
	pthread_mutex_unlock(&tty.lock);
}

static bool enter_locked(const char *leave, GError **error)
{
	struct termios t;

	if (tty.raw) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
			    "the terminal is in use already; give only one of the consoles to it");
		return false;
	}
	if (!tty_usable() || tcgetattr(STDIN_FILENO, &tty.saved) < 0) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
			    "standard input is not a terminal in the foreground; run it from a terminal");
		return false;
	}
	t = tty.saved;
	t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN | ISIG);
	t.c_cflag = (t.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	if (tcsetattr(STDIN_FILENO, TCSANOW, &t) < 0) {
		g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "cannot make the terminal raw: %s",
			    g_strerror(errno));
		return false;
	}
	tty.leave = leave;
	tty.owner = getpid();
	tty.raw = true;
	if (!tty.at_exit)
		tty.at_exit = atexit(tty_raw_leave) == 0;
	return true;
}

bool tty_raw_enter(const char *leave, GError **error)
{
	bool ok;

	pthread_mutex_lock(&tty.lock);
	ok = enter_locked(leave, error);
	pthread_mutex_unlock(&tty.lock);
	return ok;
}
