// Attributes of functions: what Python may call, and what the compiler has to inline.

#pragma once

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
