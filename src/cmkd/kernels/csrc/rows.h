/* One row of logits: loading it from any layout, its standardisation and the way back.
 *
 * A "row" is the C class scores of one sample (or of one position of a sample), of which n are valid. */
#ifndef CMKD_ROWS_H
#define CMKD_ROWS_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Float sums are taken over blocks of this length, and the blocks are added in double. */
#define BLOCK 512

enum { FLOAT32 = 0, BFLOAT16 = 1 };

/* A tensor (samples, classes, positions): strides are counted in elements, and may be 0. */
typedef struct {
    void *data;
    int64_t sample, cls, position;
    int32_t dtype;
} view;

static inline int64_t row_offset(const view *t, int64_t row, int64_t positions) {
    return row / positions * t->sample + row % positions * t->position;
}

static inline float read_bfloat16(const uint16_t *at) {
    uint32_t bits = (uint32_t)*at << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t round_to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Copy the valid classes of a row; `valid` lists them, or is NULL for all. */
static void load_row(const view *t, int64_t row, int64_t positions, const int32_t *valid, int n, float *out) {
    const int64_t start = row_offset(t, row, positions), step = t->cls;
    if (t->dtype == BFLOAT16) {
        const uint16_t *x = (const uint16_t *)t->data + start;
        if (valid)
            for (int i = 0; i < n; i++) out[i] = read_bfloat16(x + valid[i] * step);
        else
            for (int i = 0; i < n; i++) out[i] = read_bfloat16(x + i * step);
        return;
    }
    const float *x = (const float *)t->data + start;
    if (valid)
        for (int i = 0; i < n; i++) out[i] = x[valid[i] * step];
    else if (step == 1)
        memcpy(out, x, sizeof(float) * (size_t)n);
    else
        for (int i = 0; i < n; i++) out[i] = x[i * step];
}

/* Write the valid classes of a row, and zero for all others. */
static void store_row(const view *t, int64_t row, int64_t positions, int classes, const int32_t *valid, int n,
                      const float *values) {
    const int64_t start = row_offset(t, row, positions), step = t->cls;
    if (t->dtype == BFLOAT16) {
        uint16_t *x = (uint16_t *)t->data + start;
        if (n < classes)
            for (int i = 0; i < classes; i++) x[i * step] = 0;
        for (int i = 0; i < n; i++) x[(valid ? valid[i] : i) * step] = round_to_bfloat16(values[i]);
        return;
    }
    float *x = (float *)t->data + start;
    if (n < classes)
        for (int i = 0; i < classes; i++) x[i * step] = 0;
    if (valid)
        for (int i = 0; i < n; i++) x[valid[i] * step] = values[i];
    else if (step == 1)
        memcpy(x, values, sizeof(float) * (size_t)n);
    else
        for (int i = 0; i < n; i++) x[i * step] = values[i];
}

/* exp(x) for x <= 0 to 1e-7 relative, in a form that compilers vectorise (Cephes' polynomial). What would be
 * smaller than the smallest normal number comes out as about that. exp(0) is exactly 1. */
static inline float exp_negative(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float n = rintf(x * 1.44269504089f);
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
}

typedef struct {
    float top, bottom;     /* largest and smallest value */
    float scale, shift;    /* z = (x - top) * scale + shift, both parts halved against overflow */
    double deviation;      /* standard deviation of the row */
    float z_top, z_bottom; /* z of the largest and of the smallest value */
    int finite, constant;  /* constant as in cmkd.functional.standardize: no larger than its rounding */
} row_stats;

static row_stats measure_row(const float *x, int n) {
    row_stats s = {0};
    float top = x[0], bottom = x[0];
    int odd = 0;
#pragma omp simd reduction(max : top) reduction(min : bottom) reduction(+ : odd)
    for (int i = 0; i < n; i++) {
        top = x[i] > top ? x[i] : top;
        bottom = x[i] < bottom ? x[i] : bottom;
        odd += !(fabsf(x[i]) <= FLT_MAX);
    }
    s.top = top;
    s.bottom = bottom;
    s.finite = odd == 0;
    const float half_top = top * 0.5f, spread = half_top - bottom * 0.5f;
    const float noise = 16 * FLT_EPSILON * fmaxf(fabsf(half_top), fabsf(bottom * 0.5f));
    s.constant = !s.finite || spread < fmaxf(noise, 1024 * FLT_MIN);
    if (s.constant) return s;

    const float inverse = 1 / spread;
    double sum = 0, squares = 0;
    for (int from = 0; from < n; from += BLOCK) {
        const int to = from + BLOCK < n ? from + BLOCK : n;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int i = from; i < to; i++) part += (x[i] * 0.5f - half_top) * inverse;
        sum += part;
    }
    const float mean = (float)(sum / n);
    for (int from = 0; from < n; from += BLOCK) {
        const int to = from + BLOCK < n ? from + BLOCK : n;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int i = from; i < to; i++) {
            const float centred = (x[i] * 0.5f - half_top) * inverse - mean;
            part += centred * centred;
        }
        squares += part;
    }
    const double sd = sqrt(squares / n);
    s.deviation = sd * spread * 2;
    s.scale = (float)(inverse / sd);
    s.shift = (float)(-mean / sd);
    s.z_top = s.shift;
    s.z_bottom = (float)((-1 - mean) / sd);
    return s;
}

/* In place: x becomes z. */
static void standardize_row(float *x, int n, const row_stats *s) {
    const float half_top = s->top * 0.5f, scale = s->scale, shift = s->shift;
#pragma omp simd
    for (int i = 0; i < n; i++) x[i] = (x[i] * 0.5f - half_top) * scale + shift;
}

/* In place: the gradient with respect to z becomes that with respect to x. */
static void standardize_backward(float *grad, const float *z, int n, const row_stats *s) {
    double sum = 0, along = 0;
    for (int from = 0; from < n; from += BLOCK) {
        const int to = from + BLOCK < n ? from + BLOCK : n;
        float a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
        for (int i = from; i < to; i++) {
            a += grad[i];
            b += grad[i] * z[i];
        }
        sum += a;
        along += b;
    }
    const float mean = (float)(sum / n), slope = (float)(along / n), inverse = (float)(1 / s->deviation);
#pragma omp simd
    for (int i = 0; i < n; i++) grad[i] = (grad[i] - mean - slope * z[i]) * inverse;
}

/* e = exp((z - z_top) / tau), the softmax without its normaliser, and its sum; e may be z. */
static double exponentiate_row(const float *z, int n, const row_stats *s, float inverse_tau, float *e) {
    const float top = s->z_top;
    double sum = 0;
    for (int from = 0; from < n; from += BLOCK) {
        const int to = from + BLOCK < n ? from + BLOCK : n;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int i = from; i < to; i++) {
            e[i] = exp_negative((z[i] - top) * inverse_tau);
            part += e[i];
        }
        sum += part;
    }
    return sum;
}

#endif
