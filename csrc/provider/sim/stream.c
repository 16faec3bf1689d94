/* stream.c: byte streams of the fabric, for control connections: listeners, and connections of two pipes.
 *
 * A pipe carries bytes one way in seeded fragments, each with a delay of its own, in order and without loss; a cut holds
 * them back until it heals. The end of a stream travels behind the last byte. Addresses are "host:port" with any host text:
 * a world is one network, in which each is bound once. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/number.h"
#include "provider/sim/sim.h"

enum { ADDRESS_SIZE = 128, BACKLOG_MAX = 4096 };

typedef struct sim_connection sim_connection;

typedef struct sim_listener {
    rt_list node; /* in world->listeners */
    sim_device *device;
    char address[ADDRESS_SIZE];
    rt_list backlog; /* of sim_connection.backlog_node: arrived, not accepted */
} sim_listener;

typedef struct sim_stream {
    sim_connection *connection;
    sim_device *device; /* NULL once it is closed */
    int side;
} sim_stream;

/* One direction. Counts run from the start of the stream: taken ≤ arrived ≤ written. */
typedef struct sim_pipe {
    sim_event event; /* the next fragment, or the end */
    sim_connection *connection;
    int side; /* that reads it */
    uint64_t written, arrived, taken;
    bool ending;       /* an end follows the bytes written */
    bool ended;        /* the end has arrived */
    bool truncated;    /* the fault plan ended it: bytes written after that are lost */
    bool writer_waits; /* a write found no room */
    uint8_t bytes[SIM_STREAM_CAPACITY];
} sim_pipe;

struct sim_connection {
    rt_list node; /* in world->connections */
    rt_list backlog_node;
    sim_world *world;
    sim_listener *listener; /* until it is accepted; NULL too when the listener is gone */
    sim_event hello;
    sim_stream ends[2]; /* 0: the connector, 1: the acceptor */
    sim_pipe pipes[2];  /* by the side that reads */
};

/* ---- addresses ---- */

/* Splits "host:port" at the last colon; writes it back with the port chosen when it is 0. */
static int address_choose(sim_world *world, const char *address, char *address_out, rt_detail *detail)
{
    const char *colon = strrchr(address, ':');
    uint64_t port = 0;
    size_t size = strlen(address);
    if (colon == NULL || colon == address || size >= ADDRESS_SIZE - 8 || !rt_parse_u64(colon + 1, strlen(colon + 1), &port) ||
        port > 65535)
        return rt_fail(detail, RT_E_INVALID, 0, "'%.80s' is not an address of the simulated network: write host:port", address);
    if (port == 0) {
        port = world->port_next++;
        if (world->port_next > 65535)
            world->port_next = 40000;
    }
    snprintf(address_out, ADDRESS_SIZE, "%.*s:%llu", (int)(colon - address), address, (unsigned long long)port);
    return RT_OK;
}

static sim_listener *listener_find(const sim_world *world, const char *address)
{
    RT_LIST_EACH(node, &world->listeners) {
        sim_listener *listener = RT_LIST_ENTRY(node, sim_listener, node);
        if (!listener->device->dead && strcmp(listener->address, address) == 0)
            return listener;
    }
    return NULL;
}

/* ---- pipes ---- */

static sim_device *side_device(const sim_connection *connection, int side)
{
    return connection->ends[side].device;
}

static void pipe_schedule(sim_pipe *pipe)
{
    sim_world *world = pipe->connection->world;
    const sim_device *device = side_device(pipe->connection, pipe->side);
    if (pipe->event.place != 0 || pipe->ended || (pipe->arrived == pipe->written && !pipe->ending))
        return;
    const sim_device *other = side_device(pipe->connection, 1 - pipe->side);
    const sim_device *either = device != NULL ? device : other;
    int64_t delay_ns = either == NULL ? 1 : rt_sim_latency(world, either, other);
    int64_t at_ns = world->now_ns + delay_ns;
    if (pipe->connection->hello.place != 0 && at_ns <= pipe->connection->hello.at_ns)
        at_ns = pipe->connection->hello.at_ns + 1;
    rt_sim_schedule(&world->heap, &pipe->event, at_ns);
}

static bool connection_cut(const sim_connection *connection)
{
    const sim_device *one = side_device(connection, 0), *other = side_device(connection, 1);
    return one != NULL && other != NULL && rt_sim_path_cut(connection->world, one, other);
}

static void pipe_fire(sim_world *world, sim_event *event)
{
    sim_pipe *pipe = RT_LIST_ENTRY(event, sim_pipe, event);
    sim_device *device = side_device(pipe->connection, pipe->side);
    if (connection_cut(pipe->connection)) {
        rt_sim_schedule(&world->heap, event, world->now_ns + device->retry_ns / SIM_RETRY_STEPS);
        return;
    }
    uint64_t left = pipe->written - pipe->arrived;
    if (left != 0) {
        uint64_t most = left < SIM_STREAM_FRAGMENT_MAX ? left : SIM_STREAM_FRAGMENT_MAX;
        uint64_t size = rt_sim_random_below(&world->random, 8) == 0 ? 1 : 1 + rt_sim_random_below(&world->random, most);
        pipe->arrived += size;
        rt_sim_trace(world, SIM_TRACE_STREAM, (uint64_t)pipe->side, pipe->arrived, size);
    } else {
        pipe->ended = true;
        rt_sim_trace(world, SIM_TRACE_STREAM_END, (uint64_t)pipe->side, pipe->arrived, 0);
    }
    if (device == NULL)
        pipe->taken = pipe->arrived; /* the reading side is closed */
    else
        rt_sim_happen(device, true);
    pipe_schedule(pipe);
}

static void pipe_end(sim_pipe *pipe)
{
    pipe->ending = true;
    pipe_schedule(pipe);
}

/* ---- connections ---- */

static void connection_free_if_closed(sim_connection *connection)
{
    sim_world *world = connection->world;
    if (side_device(connection, 0) != NULL || side_device(connection, 1) != NULL)
        return;
    rt_sim_cancel(&world->heap, &connection->hello);
    rt_sim_cancel(&world->heap, &connection->pipes[0].event);
    rt_sim_cancel(&world->heap, &connection->pipes[1].event);
    rt_sim_heap_unreserve(&world->heap, 3);
    rt_list_remove(&connection->backlog_node);
    rt_list_remove(&connection->node);
    free(connection);
}

static void stream_end(sim_stream *stream)
{
    sim_connection *connection = stream->connection;
    sim_pipe *incoming = &connection->pipes[stream->side];
    stream->device = NULL;
    incoming->taken = incoming->arrived;
    pipe_end(&connection->pipes[1 - stream->side]);
    connection_free_if_closed(connection);
}

static void hello_fire(sim_world *world, sim_event *event)
{
    sim_connection *connection = RT_LIST_ENTRY(event, sim_connection, hello);
    if (connection_cut(connection)) {
        rt_sim_schedule(&world->heap, event, world->now_ns + side_device(connection, 0)->retry_ns / SIM_RETRY_STEPS);
        return;
    }
    rt_sim_trace(world, SIM_TRACE_HELLO, 0, 0, 0);
    if (connection->listener == NULL)
        return; /* the listener was closed meanwhile, and the end of the stream is on its way */
    rt_list_append(&connection->listener->backlog, &connection->backlog_node);
    rt_sim_happen(connection->listener->device, true);
}

static sim_connection *connection_create(sim_world *world, sim_device *device, sim_listener *listener)
{
    sim_connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL)
        return NULL;
    if (rt_sim_heap_reserve(&world->heap, 3) != RT_OK) {
        free(connection);
        return NULL;
    }
    connection->world = world;
    connection->listener = listener;
    connection->hello.fire = hello_fire;
    rt_list_init(&connection->backlog_node);
    for (int side = 0; side < 2; side++) {
        sim_device *owner = side == 0 ? device : listener->device;
        connection->ends[side] = (sim_stream){.connection = connection, .device = owner, .side = side};
        connection->pipes[side].connection = connection;
        connection->pipes[side].side = side;
        connection->pipes[side].event.fire = pipe_fire;
    }
    rt_list_append(&world->connections, &connection->node);
    return connection;
}

/* ---- the table ---- */

static int stream_listen(rt_pdevice *pdevice, const char *address, void **listener_out, char *bound_out, size_t bound_capacity,
                         rt_detail *detail)
{
    sim_device *device = (sim_device *)pdevice;
    sim_world *world = device->world;
    int status = rt_sim_refused(device, SIM_CALL_LISTEN, "listen", detail);
    if (status != RT_OK)
        return status;
    char bound[ADDRESS_SIZE];
    do
        status = address_choose(world, address, bound, detail);
    while (status == RT_OK && listener_find(world, bound) != NULL && strcmp(strrchr(address, ':'), ":0") == 0);
    if (status != RT_OK)
        return status;
    if (listener_find(world, bound) != NULL)
        return rt_fail(detail, RT_E_EXISTS, 0, "'%s' cannot listen at %s: the address is taken", device->base.name, bound);
    if (strlen(bound) >= bound_capacity)
        return rt_fail(detail, RT_E_INVALID, 0, "the address %s has more than %zu characters", bound, bound_capacity - 1);
    sim_listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "'%s' cannot listen at %s: no memory", device->base.name, bound);
    listener->device = device;
    memcpy(listener->address, bound, sizeof bound);
    rt_list_init(&listener->backlog);
    rt_list_append(&world->listeners, &listener->node);
    device->listener_count++;
    memcpy(bound_out, bound, strlen(bound) + 1);
    *listener_out = listener;
    return RT_OK;
}

static int stream_accept(void *handle, void **stream_out, rt_detail *detail)
{
    sim_listener *listener = handle;
    int status = rt_sim_refused(listener->device, SIM_CALL_ACCEPT, "accept a connection", detail);
    if (status != RT_OK)
        return status;
    if (rt_list_empty(&listener->backlog))
        return RT_E_AGAIN;
    sim_connection *connection = RT_LIST_ENTRY(listener->backlog.next, sim_connection, backlog_node);
    rt_list_remove(&connection->backlog_node);
    connection->listener = NULL;
    listener->device->stream_count++;
    *stream_out = &connection->ends[1];
    return RT_OK;
}

static void stream_unlisten(void *handle)
{
    sim_listener *listener = handle;
    sim_device *device = listener->device;
    RT_LIST_EACH_SAFE(node, &device->world->connections) {
        sim_connection *connection = RT_LIST_ENTRY(node, sim_connection, node);
        if (connection->listener != listener)
            continue;
        connection->listener = NULL;
        rt_list_remove(&connection->backlog_node);
        stream_end(&connection->ends[1]);
    }
    rt_list_remove(&listener->node);
    device->listener_count--;
    free(listener);
}

static int stream_connect(rt_pdevice *pdevice, const char *address, void **stream_out, rt_detail *detail)
{
    sim_device *device = (sim_device *)pdevice;
    sim_world *world = device->world;
    int status = rt_sim_refused(device, SIM_CALL_CONNECT, "connect", detail);
    if (status != RT_OK)
        return status;
    sim_listener *listener = listener_find(world, address);
    if (listener == NULL)
        return rt_fail(detail, RT_E_REFUSED, 0, "'%s' cannot connect to %.80s: nobody listens there in the world '%s'",
                       device->base.name, address, world->name);
    sim_connection *connection = connection_create(world, device, listener);
    if (connection == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "'%s' cannot connect to %.80s: no memory", device->base.name, address);
    rt_sim_schedule(&world->heap, &connection->hello, world->now_ns + rt_sim_latency(world, device, listener->device));
    device->stream_count++;
    *stream_out = &connection->ends[0];
    return RT_OK;
}

static int64_t stream_read(void *handle, void *bytes, size_t capacity)
{
    sim_stream *stream = handle;
    sim_connection *connection = stream->connection;
    assert(stream->device != NULL);
    if (stream->device->dead)
        return RT_E_DEVICE_LOST;
    sim_pipe *pipe = &connection->pipes[stream->side];
    uint64_t size = pipe->arrived - pipe->taken;
    if (size == 0)
        return pipe->ended ? RT_E_PEER_LOST : RT_E_AGAIN;
    if (size > capacity)
        size = capacity;
    for (uint64_t index = 0; index < size; index++)
        ((uint8_t *)bytes)[index] = pipe->bytes[pipe->taken++ % SIM_STREAM_CAPACITY];
    sim_device *writer = side_device(connection, 1 - stream->side);
    if (pipe->writer_waits && writer != NULL)
        rt_sim_nudge(writer, connection->world->now_ns + rt_sim_latency(connection->world, stream->device, writer), false);
    pipe->writer_waits = false;
    return (int64_t)size;
}

/* Takes bytes into the pipe, as the fault plan alters them. */
static void pipe_write(sim_pipe *pipe, const sim_device *writer, const uint8_t *bytes, uint64_t size)
{
    for (uint64_t index = 0; index < size && !pipe->truncated && pipe->written < writer->truncate_at; index++) {
        uint8_t byte = bytes[index];
        if (pipe->written == writer->corrupt_at)
            byte ^= writer->corrupt_mask;
        pipe->bytes[pipe->written++ % SIM_STREAM_CAPACITY] = byte;
    }
    if (pipe->written >= writer->truncate_at)
        pipe->truncated = pipe->ending = true;
    pipe_schedule(pipe);
}

static int64_t stream_write(void *handle, const void *bytes, size_t size)
{
    sim_stream *stream = handle;
    sim_connection *connection = stream->connection;
    assert(stream->device != NULL);
    if (stream->device->dead)
        return RT_E_DEVICE_LOST;
    if (connection->pipes[stream->side].ended)
        return RT_E_PEER_LOST;
    sim_pipe *pipe = &connection->pipes[1 - stream->side];
    uint64_t room = SIM_STREAM_CAPACITY - (pipe->written - pipe->taken);
    if (room == 0) {
        pipe->writer_waits = true;
        return RT_E_AGAIN;
    }
    uint64_t taken = size < room ? size : room;
    if (taken > 1 && rt_sim_random_below(&connection->world->random, 4) == 0)
        taken = 1 + rt_sim_random_below(&connection->world->random, taken); /* a short write */
    pipe_write(pipe, stream->device, bytes, taken);
    return (int64_t)taken;
}

static void stream_close(void *handle)
{
    sim_stream *stream = handle;
    assert(stream->device != NULL);
    stream->device->stream_count--;
    stream_end(stream);
}

void rt_sim_streams_kill(sim_device *device)
{
    RT_LIST_EACH(node, &device->world->connections) {
        sim_connection *connection = RT_LIST_ENTRY(node, sim_connection, node);
        for (int side = 0; side < 2; side++) {
            if (side_device(connection, side) == device)
                pipe_end(&connection->pipes[1 - side]);
        }
    }
}

const rt_stream_ops rt_sim_streams = {
    stream_listen, stream_accept, stream_unlisten, stream_connect, stream_read, stream_write, stream_close,
};
