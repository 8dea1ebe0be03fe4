/* `guise doctor`: checks the host point by point and names the fixing command for each lack. */
#ifndef CLI_DOCTOR_H
#define CLI_DOCTOR_H

int doctor_command(void);

#endif
