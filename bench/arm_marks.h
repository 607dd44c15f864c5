// Marks between which bench/arm.py counts instructions: functions whose addresses an emulator's log shows.

#pragma once

__attribute__((noinline, used)) static void begin_measured(void) { __asm__ volatile("nop"); }

__attribute__((noinline, used)) static void end_measured(void) { __asm__ volatile("nop; nop"); }
