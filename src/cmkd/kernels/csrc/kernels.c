/* The compiled path of cmkd on CPU: ranks, entropies, and the correlation losses with their gradients.
 *
 * Every row is computed by one thread and on its own, so results depend neither on the number of threads nor
 * on the rest of the batch. The definitions are those of cmkd.functional; the tests hold both together. */
#include <stdlib.h>

#include "rows.h"
#include "soft_ranks.h"
#include "sorting.h"

/* What is asked for; every function reads the members that it needs. */
typedef struct {
    int64_t samples, positions;
    int32_t classes, threads;
    int32_t method, knots; /* knots: of the binned rank only */
    int32_t raw;           /* l2 only: rank x itself, softness being the strength */
    double softness, tau;
    view mask; /* one byte per class, 0 where it is not valid; no data: all are */
    view x;    /* values to rank, or the logits of the student */
    view y;    /* slope with respect to the ranks, or the logits of the teacher */
    view out;  /* ranks or gradient */
    const float *value_weight, *rank_weight; /* per row, of the two terms in the gradient */
    float *first, *second;                   /* per row: Pearson term or entropy; Spearman term */
} job;

/* What one thread works in. Every member points into one allocation. */
typedef struct {
    char *memory;
    int32_t *valid;
    float *x, *e, *rank, *other, *other_rank, *grad;
    rank_space soft;
} workspace;

static size_t carve(workspace *w, const job *j, char *memory) {
    const size_t n = (size_t)j->classes, knots = (size_t)j->knots;
    size_t used = 0;
#define CARVE(member, count)                                          \
    do {                                                              \
        w->member = (void *)(memory ? memory + used : NULL);          \
        used += ((count) * sizeof(*w->member) + 63) & ~(size_t)63;    \
    } while (0)
    CARVE(valid, n);
    CARVE(x, n);
    CARVE(e, n);
    CARVE(rank, n);
    CARVE(other, n);
    CARVE(other_rank, n);
    CARVE(grad, n);
    CARVE(soft.sort.keys, n);
    CARVE(soft.sort.spare, n);
    CARVE(soft.sort.grouped, n);
    CARVE(soft.sort.values, n);
    CARVE(soft.sort.start, n / BUCKET + 2);
    if (j->method == BINNED) {
        CARVE(soft.place, n);
        CARVE(soft.cells, knots * COPIES);
        CARVE(soft.histogram, knots);
        CARVE(soft.below, knots);
        CARVE(soft.pull, knots);
    } else {
        CARVE(soft.order, n);
        CARVE(soft.sorted, n);
        CARVE(soft.up, n);
        CARVE(soft.down, n);
        CARVE(soft.decay, n);
        CARVE(soft.block, n);
    }
#undef CARVE
    return used;
}

static int open_workspace(workspace *w, const job *j) {
    memset(w, 0, sizeof *w);
    w->memory = malloc(carve(w, j, NULL) + 64);
    if (!w->memory) return 0;
    carve(w, j, (char *)(((uintptr_t)w->memory + 63) & ~(uintptr_t)63));
    w->soft.method = j->method;
    w->soft.knots = j->knots;
    w->soft.softness = j->softness;
    return 1;
}

/* List the valid classes of a row in w->valid; NULL stands for all of them. */
static const int32_t *find_valid(const job *j, int64_t row, workspace *w, int *n) {
    *n = j->classes;
    if (!j->mask.data) return NULL;
    const uint8_t *mask = (const uint8_t *)j->mask.data + row_offset(&j->mask, row, j->positions);
    *n = 0;
    for (int i = 0; i < j->classes; i++)
        if (mask[i * j->mask.cls]) w->valid[(*n)++] = i;
    return w->valid;
}

typedef void row_function(const job *j, workspace *w, int64_t row, const int32_t *valid, int n);

/* 0, or 1 where memory ran out. */
static int for_each_row(const job *j, row_function *compute) {
    const int64_t rows = j->samples * j->positions;
    int failed = 0;
#pragma omp parallel num_threads(j->threads) if (j->threads > 1)
    {
        workspace w;
        const int ready = open_workspace(&w, j);
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            int n;
            if (!ready) continue;
            const int32_t *valid = find_valid(j, row, &w, &n);
            compute(j, &w, row, valid, n);
        }
        if (ready) free(w.memory);
    }
    return failed;
}

/* Bounded, so that 0 times it is 0. */
static float inverse_of(double tau) { return (float)fmin(1 / tau, FLT_MAX); }

/* Tie-averaged ranks, 0 where a class is not valid. A row with NaN is all NaN. */
static void exact_rank_row(const job *j, workspace *w, int64_t row, const int32_t *valid, int n) {
    load_row(&j->x, row, j->positions, valid, n, w->x);
    if (n) {
        const row_stats stats = measure_row(w->x, n);
        int missing = 0;
        if (!stats.finite)
            for (int i = 0; i < n; i++) missing += isnan(w->x[i]) != 0;
        if (missing)
            for (int i = 0; i < n; i++) w->rank[i] = NAN;
        else if (stats.finite)
            rank_row(w->x, n, stats.bottom, stats.top, &w->soft.sort, w->rank, NULL);
        else
            rank_by_radix(w->x, n, &w->soft.sort, w->rank, NULL);
    }
    store_row(&j->out, row, j->positions, j->classes, valid, n, w->rank);
}

/* The soft ranks of x; with y, a slope with respect to them, the slope with respect to x instead. */
static void soft_rank_row(const job *j, workspace *w, int64_t row, const int32_t *valid, int n) {
    const int backward = j->y.data != NULL;
    float *result = backward ? w->grad : w->rank;
    load_row(&j->x, row, j->positions, valid, n, w->x);
    if (n) {
        row_stats stats = measure_row(w->x, n);
        if (j->raw) { /* as it is, with a strength in units of x; even a constant row has a slope then */
            stats.z_top = stats.top;
            stats.z_bottom = stats.bottom;
            stats.constant = 0;
            w->soft.softness = j->softness * n;
        } else if (!stats.constant)
            standardize_row(w->x, n, &stats);
        if (!stats.finite)
            for (int i = 0; i < n; i++) result[i] = NAN;
        else if (backward && stats.constant)
            memset(result, 0, sizeof(float) * (size_t)n);
        else {
            soft_rank(w->x, n, &stats, &w->soft, w->rank);
            if (backward) {
                load_row(&j->y, row, j->positions, valid, n, w->other);
                soft_rank_backward(w->x, n, &w->soft, w->other, result);
                if (!j->raw) standardize_backward(result, w->x, n, &stats);
            }
        }
    }
    store_row(&j->out, row, j->positions, j->classes, valid, n, result);
}

/* Entropy of softmax(z / tau) of the standardised row, divided by the logarithm of the number of valid
 * classes; 1 for a row that is constant, has fewer than two of them, or is not finite. */
static void entropy_row(const job *j, workspace *w, int64_t row, const int32_t *valid, int n) {
    j->first[row] = 1;
    if (n < 2) return;
    load_row(&j->x, row, j->positions, valid, n, w->x);
    const row_stats stats = measure_row(w->x, n);
    if (stats.constant) return;
    standardize_row(w->x, n, &stats);
    const float inverse_tau = inverse_of(j->tau);
    const double sum = exponentiate_row(w->x, n, &stats, inverse_tau, w->e);
    double along = 0;
    for (int from = 0; from < n; from += BLOCK) {
        const int to = from + BLOCK < n ? from + BLOCK : n;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int i = from; i < to; i++) {
            const float y = (w->x[i] - stats.z_top) * inverse_tau;
            part += w->e[i] * (y < -87.0f ? -87.0f : y);
        }
        along += part;
    }
    const double entropy = (log(sum) - along / sum) / log(n);
    j->first[row] = (float)(entropy < 0 ? 0 : entropy > 1 ? 1 : entropy);
}

typedef struct {
    double r, own, both; /* correlation; sum of squares of a; square root of the product of both sums */
} correlation;

/* Pearson correlation of two rows of known means; 0, and own = 0, where one of them does not vary. */
static correlation correlate(const float *a, float mean_a, const float *b, float mean_b, int n, int varies) {
    correlation c = {0, 0, 0};
    double aa = 0, bb = 0, ab = 0;
    if (!varies) return c;
    for (int from = 0; from < n; from += BLOCK) {
        const int to = from + BLOCK < n ? from + BLOCK : n;
        float saa = 0, sbb = 0, sab = 0;
#pragma omp simd reduction(+ : saa, sbb, sab)
        for (int i = from; i < to; i++) {
            const float da = a[i] - mean_a, db = b[i] - mean_b;
            saa += da * da;
            sbb += db * db;
            sab += da * db;
        }
        aa += saa;
        bb += sbb;
        ab += sab;
    }
    c.own = aa;
    c.both = sqrt(aa) * sqrt(bb);
    if (!(c.own > 0 && c.both > 0)) return (correlation){0, 0, 0};
    c.r = ab / c.both;
    return c;
}

/* The gradient of weight * (1 - r) with respect to a is own * (a - mean_a) - cross * (b - mean_b). */
typedef struct {
    float own, cross;
} slope;

static slope correlate_backward(const correlation *c, float weight) {
    return (slope){(float)(weight * c->r / c->own), (float)(weight / c->both)};
}

static float one_minus(double r) { return (float)(r > 1 ? 0 : r < -1 ? 2 : 1 - r); }

/* Whether values differ by more than their rounding, as cmkd.functional.standardize decides it. */
static int varies_between(float low, float high) { return high - low >= 16 * FLT_EPSILON * high; }

static int ranks_vary(const float *rank, int n) {
    float low = rank[0], high = rank[0];
#pragma omp simd reduction(min : low) reduction(max : high)
    for (int i = 0; i < n; i++) {
        low = rank[i] < low ? rank[i] : low;
        high = rank[i] > high ? rank[i] : high;
    }
    return varies_between(low, high);
}

/* Spearman term, and its gradient with respect to z; returns whether there is one. The ranks are lost. */
static int spearman_row(const job *j, workspace *w, int64_t row, int n, const row_stats *own,
                        const row_stats *other) {
    const float middle = 0.5f * (float)(n + 1);
    rank_row(w->other, n, other->bottom, other->top, &w->soft.sort, w->other_rank, NULL);
    soft_rank(w->x, n, own, &w->soft, w->rank);
    const correlation c = correlate(w->rank, middle, w->other_rank, middle, n, ranks_vary(w->rank, n));
    j->second[row] = one_minus(c.r);
    if (!j->out.data || c.own == 0) return 0;
    const slope g = correlate_backward(&c, j->rank_weight[row]);
#pragma omp simd
    for (int i = 0; i < n; i++)
        w->rank[i] = g.own * (w->rank[i] - middle) - g.cross * (w->other_rank[i] - middle);
    soft_rank_backward(w->x, n, &w->soft, w->rank, w->grad);
    return 1;
}

/* Pearson term, and its gradient with respect to z, added if `add`; returns whether there is one. The logits
 * of the teacher are lost. */
static int pearson_row(const job *j, workspace *w, int64_t row, int n, const row_stats *own,
                       const row_stats *other, int add) {
    const float inverse_tau = inverse_of(j->tau);
    const double sum = exponentiate_row(w->x, n, own, inverse_tau, w->e);
    const float mean = (float)(sum / n);
    standardize_row(w->other, n, other);
    const float other_mean = (float)(exponentiate_row(w->other, n, other, inverse_tau, w->other) / n);
    const int varies = varies_between(exp_negative((own->z_bottom - own->z_top) * inverse_tau), 1) &&
                       varies_between(exp_negative((other->z_bottom - other->z_top) * inverse_tau), 1);
    const correlation c = correlate(w->e, mean, w->other, other_mean, n, varies);
    j->first[row] = one_minus(c.r);
    if (!j->out.data || c.own == 0) return 0;
    const slope g = correlate_backward(&c, j->value_weight[row]);
    if (!add) memset(w->grad, 0, sizeof(float) * (size_t)n);
    /* The correlation does not feel the normaliser of the softmax, so this sum is its rounding alone; which
     * a small tau would magnify. */
    double along_all = 0;
    for (int i = 0; i < n; i++) {
        w->other[i] = g.own * (w->e[i] - mean) - g.cross * (w->other[i] - other_mean);
        along_all += (double)w->other[i] * w->e[i];
    }
    const float excess = (float)(along_all / sum);
#pragma omp simd
    for (int i = 0; i < n; i++) w->grad[i] += (w->other[i] - excess) * w->e[i] * inverse_tau;
    return 1;
}

/* The terms of CMKD, first = 1 - r(softmax(z_s / tau), softmax(z_t / tau)) and
 * second = 1 - r(soft rank of s, exact rank of t), either left out where its output is NULL; and the gradient
 * of value_weight * first + rank_weight * second with respect to the student x.
 *
 * A row that is constant, has fewer than two valid classes, or NaN or infinity in one of them, correlates 0
 * with anything, without gradient. */
static void terms_row(const job *j, workspace *w, int64_t row, const int32_t *valid, int n) {
    int has_gradient = 0;
    if (j->first) j->first[row] = 1;
    if (j->second) j->second[row] = 1;
    if (n >= 2) {
        load_row(&j->x, row, j->positions, valid, n, w->x);
        load_row(&j->y, row, j->positions, valid, n, w->other);
        const row_stats own = measure_row(w->x, n), other = measure_row(w->other, n);
        if (!own.constant && other.finite) {
            standardize_row(w->x, n, &own);
            if (j->second && !other.constant) has_gradient = spearman_row(j, w, row, n, &own, &other);
            if (j->first && !other.constant) has_gradient |= pearson_row(j, w, row, n, &own, &other, has_gradient);
            if (has_gradient) standardize_backward(w->grad, w->x, n, &own);
        }
    }
    if (!j->out.data) return;
    if (!has_gradient) memset(w->grad, 0, sizeof(float) * (size_t)n);
    store_row(&j->out, row, j->positions, j->classes, valid, n, w->grad);
}

int cmkd_exact_rank(const job *j) { return for_each_row(j, exact_rank_row); }
int cmkd_soft_rank(const job *j) { return for_each_row(j, soft_rank_row); }
int cmkd_entropy(const job *j) { return for_each_row(j, entropy_row); }
int cmkd_terms(const job *j) { return for_each_row(j, terms_row); }

#ifdef _OPENMP
const int cmkd_openmp = 1;
#else
const int cmkd_openmp = 0;
#endif
