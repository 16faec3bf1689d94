/* edge_open.c: the decision whether an edge is opened, and on which terms (EDGES.md section 9).
 *
 * Checks run from the most general to the most special (sender, kind, type, shape, flow, ordering),
 * so that the text of a refusal names the first real difference. Values that can be reconciled are
 * reconciled: stripes are the smaller number, verification is on if either end wants it.
 *
 * Bytes from a peer are decoded by edge_message before they come here; the sender's check of the
 * answer still treats every value in it as hostile. Handles are attached, and their sizes checked,
 * by core. */
#include "proto/edge_open.h"
#include "proto/dtype.h"

#include <stdio.h>
#include <string.h>

#include "proto/edge_flow.h"
#include "proto/edge_mode.h"
#include "proto/edge_record.h"
#include "proto/frame.h"

enum { SHAPE_TEXT_SIZE = 96 };

void rt_edge_refuse(const rt_edge_message *request, rt_edge_refusal refusal, const char *text, rt_edge_message *answer_out)
{
    *answer_out = (rt_edge_message){.kind = RT_EDGE_EDGE_REFUSED, .request = request->request, .refusal = (uint8_t)refusal};
    answer_out->text_size = (uint8_t)strnlen(text, RT_REASON_MAX);
    rt_text_clean((const uint8_t *)text, answer_out->text_size, answer_out->text, sizeof answer_out->text);
}

/* "static float32 [3, 4]", "dynamic any of 2 dimensions". */
static void terms_describe(uint8_t kind, const rt_tensor_shape *shape, char text_out[SHAPE_TEXT_SIZE])
{
    if (kind == RT_EDGE_STATIC) {
        int size = snprintf(text_out, SHAPE_TEXT_SIZE, "static ");
        rt_tensor_describe(shape, text_out + size, (size_t)(SHAPE_TEXT_SIZE - size));
    } else if (shape->rank == RT_EDGE_RANK_ANY) {
        snprintf(text_out, SHAPE_TEXT_SIZE, "dynamic %s of any rank", rt_dtype_name(shape->dtype));
    } else {
        snprintf(text_out, SHAPE_TEXT_SIZE, "dynamic %s of %u dimensions", rt_dtype_name(shape->dtype), (unsigned)shape->rank);
    }
}

static bool dtypes_agree(const rt_edge_terms *terms, const rt_edge_message *open)
{
    return terms->shape.dtype == open->shape.dtype || terms->shape.dtype == RT_DTYPE_ANY || open->shape.dtype == RT_DTYPE_ANY;
}

static bool dims_equal(const rt_tensor_shape *left, const rt_tensor_shape *right)
{
    return left->rank == right->rank && memcmp(left->dims, right->dims, sizeof left->dims) == 0;
}

static bool shapes_agree(const rt_edge_terms *terms, const rt_edge_message *open)
{
    if (terms->edge_kind == RT_EDGE_STATIC)
        return dims_equal(&terms->shape, &open->shape);
    return terms->shape.rank == open->shape.rank || terms->shape.rank == RT_EDGE_RANK_ANY || open->shape.rank == RT_EDGE_RANK_ANY;
}

/* The first reason to refuse, or 0. */
static uint32_t reason_of(const rt_edge_terms *terms, const rt_edge_message *open)
{
    if (terms->has_sender)
        return RT_EDGE_REFUSED_SENDER;
    if (terms->edge_kind != open->edge_kind)
        return RT_EDGE_REFUSED_KIND;
    if (!dtypes_agree(terms, open))
        return RT_EDGE_REFUSED_DTYPE;
    if (!shapes_agree(terms, open))
        return RT_EDGE_REFUSED_SHAPE;
    if (terms->flow != open->flow)
        return RT_EDGE_REFUSED_FLOW;
    return rt_edge_mode_agree(terms->modes, open->modes) == 0 ? RT_EDGE_REFUSED_ORDERING : 0;
}

static void reason_describe(uint32_t reason, const rt_edge_terms *terms, const rt_edge_message *open, char *text_out,
                            size_t capacity)
{
    char own[SHAPE_TEXT_SIZE], theirs[SHAPE_TEXT_SIZE];
    terms_describe(terms->edge_kind, &terms->shape, own);
    terms_describe(open->edge_kind, &open->shape, theirs);
    if (reason == RT_EDGE_REFUSED_SENDER)
        snprintf(text_out, capacity, "the edge has a sender already: close that one first, or make an edge for each sender");
    else if (reason == RT_EDGE_REFUSED_FLOW)
        snprintf(text_out, capacity, "the receiver made the edge with flow=\"%s\": pass the same to both ends",
                 terms->flow == RT_EDGE_FLOW_LOOP ? "loop" : "credit");
    else if (reason == RT_EDGE_REFUSED_ORDERING)
        snprintf(text_out, capacity, "no ordering that both ends may use: pass ordering= to neither end, or the same to both");
    else
        snprintf(text_out, capacity, "the receiver's edge is %s and the sender's %s", own, theirs);
}

bool rt_edge_admit(const rt_edge_terms *terms, const rt_edge_message *open, rt_edge_message *answer_out)
{
    uint32_t reason = reason_of(terms, open);
    if (reason != 0) {
        char text[RT_REASON_MAX + 1];
        reason_describe(reason, terms, open, text, sizeof text);
        rt_edge_refuse(open, (rt_edge_refusal)reason, text, answer_out);
        return false;
    }
    uint32_t mode = rt_edge_mode_agree(terms->modes, open->modes);
    bool single = mode == RT_EDGE_TAIL || terms->edge_kind == RT_EDGE_DYNAMIC;
    *answer_out = (rt_edge_message){.kind = RT_EDGE_EDGE_OPENED,
                                    .request = open->request,
                                    .edge_kind = terms->edge_kind,
                                    .verify = terms->verify || open->verify != 0,
                                    .loop_check = terms->loop_check && terms->flow == RT_EDGE_FLOW_LOOP,
                                    .modes = (uint8_t)(1u << mode),
                                    .slots = terms->slots,
                                    .alignment_log = terms->alignment_log,
                                    .eager_size = terms->edge_kind == RT_EDGE_DYNAMIC ? terms->eager_size : 0,
                                    .shape = terms->shape};
    answer_out->stripes = single ? 1 : (open->stripes < terms->stripes ? open->stripes : terms->stripes);
    return true;
}

static const char *opened_misfit(const rt_edge_message *open, const rt_edge_message *opened)
{
    if (open->kind != RT_EDGE_OPEN_EDGE || opened->kind != RT_EDGE_EDGE_OPENED || opened->edge_kind != open->edge_kind)
        return "another kind of edge";
    if ((opened->modes & open->modes) == 0)
        return "an ordering that was not offered";
    if (opened->stripes > open->stripes || opened->verify < open->verify)
        return "more stripes or less verification than was asked for";
    if (opened->loop_check != 0 && open->flow != RT_EDGE_FLOW_LOOP)
        return "a loop check on an edge with credit";
    if (open->edge_kind == RT_EDGE_STATIC &&
        (opened->shape.dtype != open->shape.dtype || !dims_equal(&opened->shape, &open->shape)))
        return "another shape or dtype";
    return NULL;
}

int rt_edge_answer_check(const rt_edge_message *open, const rt_edge_message *opened, rt_edge_layout *layout_out,
                         rt_detail *detail)
{
    uint64_t size = 0;
    const char *what = opened_misfit(open, opened);
    if (what != NULL)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer opened the edge \"%s\" with %s", open->name, what);
    if (open->edge_kind == RT_EDGE_DYNAMIC)
        size = rt_edge_record_slot_size(opened->eager_size);
    else
        (void)rt_tensor_bytes(&open->shape, &size, NULL); /* both messages were checked */
    return rt_edge_lay_out(size, opened->slots, opened->stripes, 1ull << opened->alignment_log,
                           opened->modes == 1u << RT_EDGE_TAIL, layout_out, detail);
}
